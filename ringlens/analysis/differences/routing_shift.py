"""How far routing moves: between two selections, or along a trace.

Shape letters: U traces, L layers, E experts, W windows, B draws, R rows, k experts per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.differences.sql import along_rows, along_sql, shift_sql
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.paired_counts import Group, exclusive, scheme_of, shared_groups
from ringlens.analysis.statistics.bootstrap import intervals
from ringlens.config import refuse_unknown, whole
from ringlens.errors import NotInStoreError
from ringlens.store.encode.columns import matrix
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store import Store
    from ringlens.store.read.selection import Source

DRAWS = 200
"""Permutations and resamples."""


@refuse_unknown
def routing_shift(
    store: Source,
    a: str,
    b: str,
    by: str | Iterable[str] = (),
    *,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure the Jensen–Shannon divergence between the experts of two selections.

    Two samples of one distribution diverge too, the more the smaller they are; so the divergence is
    given with what whole traces that change places make of it.

    Args:
        store: The store.
        a: First selection, a predicate over `token_context`.
        b: Second selection.
        by: Columns of `token_context` to group by; the phase is added where neither names it.
        draws: Permutations for the null, and resamples for the interval.
        seed: Seed of both.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group and layer: ``divergence`` in nats (0 the same, ln 2 nothing in common) with
        its 95% interval over traces ``low`` and ``high``; ``null``, its mean if whole traces (or
        the two parts of each) change places at random; and ``p``, the share of these at least as
        large, itself counted. ``attrs["sql"]`` gives the divergence.

    Raises:
        ConfigError: A predicate is wrong, the selections share tokens, or one pools phases.
        StoreError: A selection is empty, or there are too few traces.
    """
    first, second = exclusive(store, a, b, by)
    rng = np.random.default_rng(seed)
    groups = list(shared_groups(store, first, second, engine))
    frame = pd.concat([_shift(group, rng, draws) for group in groups], ignore_index=True)
    traces = {trace for group in groups for trace in group.trace_U}
    return described(frame, first, len(traces), shift_sql(first, second), a=a, b=b)


@refuse_unknown
def shift_along(
    store: Source, trace_id: int, window: int = 256, *, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """Measure how far routing moves along one trace.

    Args:
        store: The store.
        trace_id: The trace.
        window: Tokens of a window.
        layers: The layers; None for all that are recorded.

    Returns:
        A row per layer and window: ``start``, its first position; ``tokens`` in it; and the
        Jensen–Shannon divergences in nats ``from_previous`` window and ``from_first`` (NaN in the
        first). One trace says nothing of others, so there is no p-value. ``attrs["sql"]`` gives the
        same numbers.

    Raises:
        NotInStoreError: There is no such trace, or its routing was not recorded.
    """
    frame, _ = _along(store, trace_id, window, layers)
    return frame


@refuse_unknown
def chance_along(
    store: Store,
    trace_id: int,
    window: int = 256,
    *,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how far routing moves along one trace, beside what its choices in random order give.

    The order is that of `Shuffled`, drawn for this trace alone: the numbers are those of
    `shift_along` of the store and of the shuffled store, from one reading.

    Args:
        store: The store.
        trace_id: The trace.
        window: Tokens of a window.
        layers: The layers; None for all that are recorded.
        seed: Seed of the order.

    Returns:
        The table of `shift_along`, and ``by_chance``: ``from_previous`` in random order.

    Raises:
        NotInStoreError: There is no such trace, or its routing was not recorded.
    """
    frame, choices = _along(store, trace_id, window, layers, whole("seed", seed, 0))
    n_LWE = choices.shuffled().counts(window)
    frame["by_chance"] = _against(n_LWE, np.roll(n_LWE, 1, axis=1)).ravel()
    return frame


def _along(
    store: Source, trace_id: int, window: int, layers: Sequence[int] | None, seed: int = 0
) -> tuple[pd.DataFrame, _Choices]:
    """The table of `shift_along`, and the choices that it counts."""
    number, size = whole("trace_id", trace_id, 0, 2**63 - 1), whole("window", window, 1)
    asked = None if layers is None else [whole("layers", layer, 0) for layer in layers]
    rows = along_rows(number, asked)
    choices = _Choices.read(store, rows, seed)
    if not len(choices.pos_R):
        of_layers = "" if asked is None else f" of the layers {asked!r:.80}"
        raise NotInStoreError(f"trace {number} has no routing{of_layers} in {store.address}.")
    n_LWE = choices.counts(size)
    every = np.unique(choices.pos_R)
    windows, tokens_W = np.unique(every // size, return_counts=True)
    frame = pd.DataFrame(
        {
            "layer": np.repeat(choices.layer_L, len(windows)),
            "start": np.tile(windows * size, len(choices.layer_L)),
            "tokens": np.tile(tokens_W, len(choices.layer_L)),
            "from_previous": _against(n_LWE, np.roll(n_LWE, 1, axis=1)).ravel(),
            "from_first": _against(n_LWE, n_LWE[:, :1]).ravel(),
        }
    )
    frame.attrs["sql"] = along_sql(rows, size)
    return frame, choices


@dataclass(frozen=True)
class _Choices:
    """The choices of a trace, in order of layer and position.

    Attributes:
        layer_L: The layers.
        at_R: Place of each row's layer.
        pos_R: Its position.
        ids_Rk: Its experts.
        drawn_R: A number whose order in a layer is random.
    """

    layer_L: NDArray[np.int64]
    at_R: NDArray[np.int64]
    pos_R: NDArray[np.int64]
    ids_Rk: NDArray[np.int64]
    drawn_R: NDArray[np.uint64]

    @classmethod
    def read(cls, store: Source, rows: str, seed: int) -> _Choices:
        """Read rows of ``routing``."""
        table = store.sql(
            f"""select layer, pos, expert_ids, hash(pos, layer, trace_id, {seed}) as drawn
            from routing where {rows} order by layer, pos"""
        ).to_arrow_table()
        layer_L, at_R = np.unique(table["layer"].to_numpy(), return_inverse=True)
        pos_R = table["pos"].to_numpy().astype(np.int64)
        ids_Rk = matrix(table["expert_ids"]).astype(np.int64)
        return cls(layer_L.astype(np.int64), at_R, pos_R, ids_Rk, table["drawn"].to_numpy())

    def shuffled(self) -> _Choices:
        """The same choices at other positions of their layer."""
        return replace(self, ids_Rk=self.ids_Rk[np.lexsort((self.drawn_R, self.at_R))])

    def counts(self, window: int) -> NDArray[np.float64]:
        """How often each expert was chosen in each window with tokens, [L, W, E]."""
        windows, window_R = np.unique(self.pos_R // window, return_inverse=True)
        shape = (len(self.layer_L), len(windows), int(self.ids_Rk.max()) + 1)
        cell_Rk = ((self.at_R * shape[1] + window_R) * shape[2])[:, None] + self.ids_Rk
        found = np.bincount(cell_Rk.ravel(), minlength=int(np.prod(shape)))
        return found.reshape(shape).astype(np.float64)


def divergence(n_E: NDArray[np.float64], m_E: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the Jensen–Shannon divergence of counts [..., E], in nats (Lin 1991)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p_E = n_E / n_E.sum(axis=-1, keepdims=True)
        r_E = m_E / m_E.sum(axis=-1, keepdims=True)
        half_E = (p_E + r_E) / 2
        terms = [np.where(x > 0, x * np.log(x / half_E), 0).sum(axis=-1) / 2 for x in (p_E, r_E)]
    return np.where(np.isnan(p_E + r_E).any(axis=-1), np.nan, terms[0] + terms[1])


def _shift(group: Group, rng: np.random.Generator, draws: int) -> pd.DataFrame:
    """Divergence of every layer of one group."""
    U, L, E = group.a_ULE.shape
    a_UX, b_UX = group.a_ULE.reshape(U, L * E), group.b_ULE.reshape(U, L * E)

    def of(a_BX: NDArray[np.float64], b_BX: NDArray[np.float64]) -> NDArray[np.float64]:
        return divergence(a_BX.reshape(-1, L, E), b_BX.reshape(-1, L, E))

    def resampled(times_BU: NDArray[np.float64], layers: slice) -> NDArray[np.float64]:
        return of(times_BU @ a_UX, times_BU @ b_UX)[:, layers]

    factors_BU = scheme_of(group).draw(rng, draws)
    # 1 where the part stays, 0 where it changes sides; a trace of one selection has one part.
    stays_BU = (1 + factors_BU) / 2 if group.paired else factors_BU
    moved_UX = b_UX if group.paired else a_UX + b_UX
    kept_UX = a_UX if group.paired else moved_UX
    first_BX = stays_BU @ kept_UX + ((1 - stays_BU) @ moved_UX if group.paired else 0)
    second_BX = (1 - stays_BU) @ kept_UX + (stays_BU @ moved_UX if group.paired else 0)
    null_BL = of(first_BX, second_BX)
    (observed_L,) = of(a_UX.sum(axis=0), b_UX.sum(axis=0))
    sets = [U] if group.paired else [group.first, U - group.first]
    low_L, high_L = intervals(resampled, sets, L, rng, draws)
    return pd.DataFrame(
        group.key
        | {
            "layer": group.layer_L,
            "divergence": observed_L,
            # A resample diverges more than the data, as the data do more than what they are drawn
            # from: the interval is mirrored at the data (the basic bootstrap).
            "low": np.maximum(0, 2 * observed_L - high_L),
            "high": 2 * observed_L - low_L,
            "null": null_BL.mean(axis=0),
            "p": ((null_BL >= observed_L - 1e-12).sum(axis=0) + 1) / (draws + 1),
        }
    )


def _against(n_LWE: NDArray[np.float64], other_LWE: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divergence of each window from another; NaN in the first."""
    shift_LW = divergence(n_LWE, np.broadcast_to(other_LWE, n_LWE.shape))
    shift_LW[:, 0] = np.nan
    return shift_LW
