"""Is it the word, or what is done with it: a contrast among equal tokens.

Two selections hold different words, and experts prefer words. Among tokens of one id that
preference cannot differ, so what is left is not the word (arXiv 2604.17182).

Shape letters: U traces, L layers, N tokens of either selection, R those with a choice on a layer,
S strata, k experts per token, E experts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Choices, Shape, Tokens, blocks
from ringlens.analysis.scans.parts import each
from ringlens.analysis.selections.paired_counts import Group, Terms
from ringlens.analysis.selections.selection import Selection
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.schema.views import quote

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


def terms(
    store: Source,
    first: Selection,
    second: Selection,
    group: Group,
    engine: Engine = LOCAL,
) -> Terms:
    """Terms of equal tokens: a stratum per token id, within each trace where traces are paired."""
    shape = Shape(group.a_ULE.shape[2], group.experts_per_token)
    query, values = _query(first, second, group)
    ((tokens,),) = store.sql(f"select count(*) from ({query})", values).fetchall()
    count = partial(
        _of_layers,
        query=query,
        values=values,
        paired=group.paired,
        traces=group.trace_U,
        shape=shape,
    )
    parts = each(store, count, blocks(group.layer_L.tolist(), tokens, shape, engine), engine)
    residuals, weights = zip(*(layer for part in parts for layer in part), strict=True)
    return Terms(np.stack(residuals, axis=1), np.stack(weights, axis=1))


def _query(first: Selection, second: Selection, group: Group) -> tuple[str, dict[str, Any]]:
    """SQL of the tokens of both selections in a group, with the values of its parameters."""
    keys = [f"{quote(name)} is not distinct from $key{i}" for i, name in enumerate(group.key)]
    where = " and ".join(keys) or "true"
    sides = (
        f"select trace_id, pos, token_id, {side} as side from token_context "
        f"where {where} and ({selection.where}\n)"
        for side, selection in enumerate((first, second))
    )
    values = {f"key{i}": _plain(value) for i, value in enumerate(group.key.values())}
    return " union all ".join(sides), values


def _of_layers(
    store: Source,
    layers: tuple[int, ...],
    query: str,
    values: dict[str, Any],
    paired: bool,
    traces: NDArray[np.int64],
    shape: Shape,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Residuals [U, E] and weights [U] of some layers."""
    table = store.sql(f"{query} order by trace_id, pos", values).to_arrow_table()
    tokens = Tokens.of(table)
    word_N = table["token_id"].to_numpy().astype(np.int64)
    u_N = pd.Index(traces).get_indexer(tokens.traces)[tokens.trace_N]
    _, stratum_N = np.unique(np.stack([u_N * paired, word_N]), axis=1, return_inverse=True)
    first_N = table["side"].to_numpy() == 0
    choices = Choices.read(store, tokens, layers, shape)
    terms_of = paired_terms if paired else _unpaired
    found = []
    for place in range(len(layers)):
        ids_kR, there_N = choices.of(place)
        strata = Strata.of(u_N[there_N], stratum_N[there_N], first_N[there_N])
        found.append(terms_of(strata, ids_kR, len(traces), shape.experts))
    return found


class Strata(NamedTuple):
    """Tokens of a layer in strata.

    Attributes:
        u_R: Place of each token's trace.
        stratum_R: Its stratum.
        first_R: Whether it is of the first selection.
        a_S: Tokens of the first selection in each stratum.
        b_S: Tokens of the second.
    """

    u_R: NDArray[np.int64]
    stratum_R: NDArray[np.int64]
    first_R: NDArray[np.bool_]
    a_S: NDArray[np.int64]
    b_S: NDArray[np.int64]

    @classmethod
    def of(
        cls, u_R: NDArray[np.int64], stratum_R: NDArray[np.int64], first_R: NDArray[np.bool_]
    ) -> Strata:
        """Count the tokens of each stratum."""
        S = int(stratum_R.max(initial=-1)) + 1
        a_S, b_S = (np.bincount(stratum_R[of], minlength=S) for of in (first_R, ~first_R))
        return cls(u_R, stratum_R, first_R, a_S, b_S)

    @property
    def weight_S(self) -> NDArray[np.float64]:
        """N·M / (N + M)."""
        return self.a_S * self.b_S / np.maximum(self.a_S + self.b_S, 1)


def paired_terms(
    strata: Strata, ids_kR: NDArray[np.unsignedinteger], U: int, E: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum what strata of one trace each tell of it.

    Args:
        strata: The tokens of a layer; strata with tokens of one selection only are left out.
        ids_kR: Their chosen experts.
        U: Number of traces.
        E: Number of experts.

    Returns:
        Choices of the first selection beyond what the strata's common rates predict, [U, E], and
        the weights N·M / (N + M) of the strata, [U].
    """
    weight_S = strata.weight_S
    kept_R = weight_S[strata.stratum_R] > 0
    u_R, stratum_R = strata.u_R[kept_R], strata.stratum_R[kept_R]
    # Σ over a of (chosen − p̂) is the sum over all tokens of chosen · ([token of a] − a / (a + b)).
    share_S = strata.a_S / np.maximum(strata.a_S + strata.b_S, 1)
    factor_R = strata.first_R[kept_R] - share_S[stratum_R]
    cell_kR = u_R * E + ids_kR[:, kept_R]
    factor_kR = np.broadcast_to(factor_R, cell_kR.shape)
    residual_UE = np.bincount(cell_kR.ravel(), factor_kR.ravel(), U * E).reshape(U, E)
    stratum_S, at_S = np.unique(stratum_R, return_index=True)
    weight_U = np.bincount(u_R[at_S], weight_S[stratum_S], U)
    return residual_UE.astype(np.float64), weight_U.astype(np.float64)


def _unpaired(
    strata: Strata, ids_kR: NDArray[np.unsignedinteger], U: int, E: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Terms where strata go across traces.

    Strata that one trace alone has say nothing about a difference between traces. What is kept may
    not depend on which selection a trace is in, or permuting traces would not be fair.
    """
    S = len(strata.a_S)
    lowest_S, highest_S = np.full(S, U), np.full(S, -1)
    np.minimum.at(lowest_S, strata.stratum_R, strata.u_R)
    np.maximum.at(highest_S, strata.stratum_R, strata.u_R)
    kept_R = (lowest_S < highest_S)[strata.stratum_R]
    u_R, ids_kR = strata.u_R[kept_R], ids_kR[:, kept_R]
    stratum_S, stratum_R = np.unique(strata.stratum_R[kept_R], return_inverse=True)
    S = len(stratum_S)
    tokens_S = (strata.a_S + strata.b_S)[stratum_S]
    n_SE = np.bincount((stratum_R * E + ids_kR).ravel(), minlength=S * E).reshape(S, E)
    rate_SE = n_SE / tokens_S[:, None]
    own_UE = np.bincount((u_R * E + ids_kR).ravel(), minlength=U * E).reshape(U, E)
    residual_UE = own_UE.astype(np.float64)
    for u in range(U):
        own_S, tokens_of_S = np.unique(stratum_R[u_R == u], return_counts=True)
        residual_UE[u] -= (tokens_of_S[:, None] * rate_SE[own_S]).sum(axis=0)
    return residual_UE, np.full(U, strata.weight_S[stratum_S].sum() / U)


def _plain(value: Any) -> Any:
    """A value of a grouping column as Python has it; pandas makes NaN of a null."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if pd.isna(plain) else plain
