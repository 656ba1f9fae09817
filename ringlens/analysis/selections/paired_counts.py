"""Counts of two selections, trace by trace, ready to be compared.

Shape letters: U traces, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.selections import expert_counts
from ringlens.analysis.selections.expert_counts import ExpertCounts, rows_by_group
from ringlens.analysis.selections.selection import Selection, read
from ringlens.analysis.statistics.bootstrap import enough_traces
from ringlens.analysis.statistics.permutation import Exchanges, Scheme, SignFlips
from ringlens.errors import ConfigError, StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@dataclass(frozen=True)
class Totals:
    """Sums over all traces of a selection.

    Attributes:
        tokens_L: Tokens.
        share_LE: Shares of tokens that chose each expert; NaN without tokens.
    """

    tokens_L: NDArray[np.int64]
    share_LE: NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Counts of both selections in one group.

    Attributes:
        key: Values of the grouping columns.
        experts_per_token: Experts that a token is given, k.
        paired: Whether each trace has tokens in both selections.
        trace_U: Ids of the traces; those of the first selection come first if they differ.
        first: Traces of the first selection.
        left_out: Traces that have tokens in one selection, where others have tokens in both.
        layer_L: Layers with a router.
        a_ULE: Times that tokens of the first selection chose each expert.
        a_UL: Its tokens.
        b_ULE: The same of the second selection.
        b_UL: Its tokens.
        all_a: What all tokens of the first selection sum to, those of traces left out included.
        all_b: The same of the second.
    """

    key: dict[str, Any]
    experts_per_token: int
    paired: bool
    trace_U: NDArray[np.int64]
    first: int
    left_out: int
    layer_L: NDArray[np.int64]
    a_ULE: NDArray[np.float64]
    a_UL: NDArray[np.float64]
    b_ULE: NDArray[np.float64]
    b_UL: NDArray[np.float64]
    all_a: Totals
    all_b: Totals


@dataclass(frozen=True)
class Terms:
    """What a contrast sums over traces.

    Attributes:
        residual_ULE: Choices beyond what the strata's common rates predict, of the tokens of the
            first selection; and of those of the second, where traces belong to one selection.
        weight_UL: Weights N·M / (N + M) of the strata; only their sum over traces has a meaning
            where traces belong to one selection.
    """

    residual_ULE: NDArray[np.float64]
    weight_UL: NDArray[np.float64]


def exclusive(
    store: Source, a: str, b: str, by: str | Iterable[str]
) -> tuple[Selection, Selection]:
    """Read two selections that are to be compared.

    Raises:
        ConfigError: A predicate is wrong, they share tokens, or one of them pools phases.
    """
    first, second = read(store, a, by), read(store, b, by)
    if first.by != second.by:
        pooling, other = (a, b) if len(first.by) > len(second.by) else (b, a)
        raise ConfigError(
            f"{pooling!r:.200} pools the phases, and {other!r:.200} does not; name the phase in "
            "both, or in neither to compare phase by phase."
        )
    query = f"select count(*) from token_context where ({a}\n) and ({b}\n)"
    (both,) = store.sql(query).fetchall()[0]
    if both:
        raise ConfigError(
            f"{both:,} tokens are in both selections, a = {a!r:.200} and b = {b!r:.200}; add to "
            "each what excludes the other."
        )
    return first, second


def shared_groups(
    store: Source, first: Selection, second: Selection, engine: Engine = LOCAL
) -> Iterator[Group]:
    """Count both selections, group by group; groups that one of them lacks are left out.

    Raises:
        ConfigError: The selections are about routers of different sizes.
        StoreError: A selection is empty, no group has both, or a group has too few traces.
    """
    a, b = expert_counts.count_apart(store, first, second, engine)
    if (a.experts, a.experts_per_token) != (b.experts, b.experts_per_token):
        raise ConfigError(
            f"a is about routers that choose {a.experts_per_token} of {a.experts} experts and b "
            f"about {b.experts_per_token} of {b.experts}; choose runs of one model."
        )
    rows_a, rows_b = rows_by_group(a.rows, first.by), rows_by_group(b.rows, second.by)
    shared = [key for key in rows_a if key in rows_b]
    if not shared:
        raise StoreError(
            f"no value of {', '.join(first.by)} has tokens in both selections; compare others."
        )
    for key in shared:
        yield _group(dict(zip(first.by, key, strict=True)), a, rows_a[key], b, rows_b[key])


def terms_of(group: Group) -> Terms:
    """Terms of all tokens: one stratum, or a stratum per trace where traces belong to both."""
    tokens_a, tokens_b, chosen = group.a_UL, group.b_UL, group.a_ULE + group.b_ULE
    if group.paired:
        own, own_tokens = group.a_ULE, tokens_a
    else:
        own, own_tokens = chosen, tokens_a + tokens_b
        tokens_a, tokens_b, chosen = (
            each.sum(axis=0, keepdims=True) for each in (tokens_a, tokens_b, chosen)
        )
    with np.errstate(invalid="ignore"):
        rate = np.nan_to_num(chosen / (tokens_a + tokens_b)[:, :, None])
        weight = np.nan_to_num(tokens_a * tokens_b / (tokens_a + tokens_b))
    if not group.paired:
        weight = np.broadcast_to(weight / len(group.trace_U), group.a_UL.shape)
    return Terms(own - own_tokens[:, :, None] * rate, weight)


def _group(
    key: dict[str, Any],
    a: ExpertCounts,
    rows_a: NDArray[np.int64],
    b: ExpertCounts,
    rows_b: NDArray[np.int64],
) -> Group:
    traces_a, traces_b = (
        pd.unique(counts.rows["trace_id"].iloc[rows]) for counts, rows in ((a, rows_a), (b, rows_b))
    )
    both = np.intersect1d(traces_a, traces_b)
    paired = bool(both.size)
    trace_U = both if paired else np.concatenate([traces_a, traces_b])
    named = f"in {key}" if key else "in the selections"
    if paired:
        enough_traces(len(both), f"the traces with tokens of both {named}: the contrast")
    else:
        enough_traces(len(traces_a), f"the first selection {named}")
        enough_traces(len(traces_b), f"the second selection {named}")
    layer_L = np.union1d(a.rows["layer"].iloc[rows_a], b.rows["layer"].iloc[rows_b])
    return Group(
        key,
        a.experts_per_token,
        paired,
        trace_U,
        len(trace_U) if paired else len(traces_a),
        len(np.union1d(traces_a, traces_b)) - len(trace_U),
        layer_L,
        *_dense(a, rows_a, trace_U, layer_L),
        *_dense(b, rows_b, trace_U, layer_L),
        _totals(a, rows_a, layer_L),
        _totals(b, rows_b, layer_L),
    )


def _totals(counts: ExpertCounts, rows: NDArray[np.int64], layer_L: NDArray[np.int64]) -> Totals:
    layer_R = np.searchsorted(layer_L, counts.rows["layer"].to_numpy()[rows])
    tokens_L = np.bincount(
        layer_R, counts.rows["tokens"].to_numpy()[rows], minlength=len(layer_L)
    ).astype(np.int64)
    own_L = [rows[layer_R == layer] for layer in range(len(layer_L))]
    n_LE = np.stack([counts.n_RE[own].sum(axis=0) for own in own_L]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return Totals(tokens_L, n_LE / tokens_L[:, None])


def _dense(
    counts: ExpertCounts,
    rows: NDArray[np.int64],
    trace_U: NDArray[np.int64],
    layer_L: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts [U, L, E] and tokens [U, L] of the traces that are asked for."""
    table = counts.rows.iloc[rows]
    u = pd.Index(trace_U).get_indexer(table["trace_id"])
    own = u >= 0
    u, layer = u[own], np.searchsorted(layer_L, table["layer"].to_numpy()[own])
    n_ULE = np.zeros((len(trace_U), len(layer_L), counts.experts))
    tokens_UL = np.zeros(n_ULE.shape[:2])
    n_ULE[u, layer] = counts.n_RE[rows[own]]
    tokens_UL[u, layer] = table["tokens"].to_numpy()[own]
    return n_ULE, tokens_UL


def scheme_of(group: Group) -> Scheme:
    """What is exchangeable if the selections do not differ."""
    U = len(group.trace_U)
    return SignFlips(U) if group.paired else Exchanges(U, group.first)
