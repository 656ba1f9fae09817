"""Bootstrap intervals; what is resampled are whole traces.

Shape letters: U traces, X quantities, B draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.analysis.statistics.side_by_side import side_by_side
from ringlens.errors import StoreError

DRAWS = 1_000
"""Resamples per interval."""

LEVEL = 0.95
"""Coverage of an interval."""

_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

_CELLS = 500_000
"""Statistics that a thread holds at once: what stays in a core's cache is worked on faster."""

_THREADS = 2
"""Threads that compute resamples."""

LEAST = 2
"""Fewest traces that are resampled."""

Statistic = Callable[[NDArray[np.float64], slice], NDArray[np.floating]]
"""From how often each trace was drawn, [B, U], and a slice of the quantities: [B, quantities]."""


def enough_traces(traces: int, what: str, unit: str = "trace") -> None:
    """Refuse an interval or a p-value of what was seen in too few traces, or another unit.

    Raises:
        StoreError: There are fewer than `LEAST`.
    """
    if traces < LEAST:
        raise StoreError(
            f"{what} comes from {traces} {unit}{'s' * (traces != 1)}; how much it varies from "
            f"{unit} to {unit} cannot be said of fewer than {LEAST}. Capture more, or leave the "
            "interval out."
        )


def intervals(
    statistic: Statistic,
    sets: Sequence[int],
    quantities: int,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute percentile intervals over resampled traces (Efron 1979).

    Args:
        statistic: What is computed of a resample.
        sets: Numbers of traces in sets that are resampled separately, in the order of the traces.
        quantities: Number of quantities.
        rng: Source of the draws.
        draws: Number of resamples.

    Returns:
        Lower and upper ends [X]; NaN where a resample has no value.
    """
    times_BU = np.concatenate(
        [rng.multinomial(n, np.full(n, 1 / n), size=draws) for n in sets], axis=1
    ).astype(np.float64)
    step = max(1, _CELLS // draws)
    parts = [slice(start, start + step) for start in range(0, quantities, step)]

    def ends(part: slice) -> NDArray[np.floating]:
        return _ends(statistic(times_BU, part))

    if len(parts) < 2:  # a pool for each of many small tables would take longer than they do
        found = [ends(part) for part in parts]
    else:
        with side_by_side(_THREADS) as pool:  # numpy leaves Python's lock meanwhile
            found = list(pool.map(ends, parts))
    low_X, high_X = np.concatenate(found, axis=1).astype(np.float64)
    return low_X, high_X


def _ends(found_BX: NDArray[np.floating]) -> NDArray[np.floating]:
    """Percentiles of the draws of each quantity, [2, X], as ``np.percentile`` gives them.

    That selects four values at once in draws that lie far apart, which takes five times as long as
    to part draws that lie side by side twice.
    """
    parted_XB = np.array(found_BX.T, order="C")
    last = parted_XB.shape[1] - 1
    (low, low_part), (high, high_part) = (divmod(last * tail, 1) for tail in _TAILS)
    above = int(np.ceil(high + high_part))
    parted_XB.partition(above, axis=1)
    # What is not a number comes last.
    unknown_X = np.isnan(parted_XB[:, above:].max(axis=1))
    b_X = parted_XB[:, above].copy()
    a_X = parted_XB[:, :above].max(axis=1) if above > high else b_X
    high_X = _between(a_X, b_X, high_part)

    rest_XB, below = parted_XB[:, : above + 1], int(low)
    rest_XB.partition(below, axis=1)
    a_X = rest_XB[:, below]
    b_X = rest_XB[:, below + 1 :].min(axis=1) if low_part > 0 else a_X
    return np.where(unknown_X, np.nan, np.stack([_between(a_X, b_X, low_part), high_X]))


def _between(a_X: NDArray[np.float64], b_X: NDArray[np.float64], part: float) -> NDArray:
    """A value between two neighbours; exactly one of them where they are equal."""
    return a_X + (b_X - a_X) * part if part < 0.5 else b_X - (b_X - a_X) * (1 - part)


def ratio_interval(
    over_U: NDArray[Any], under_U: NDArray[Any], rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, float]:
    """Compute the interval of Σ over / Σ under, both summed over resampled traces.

    Args:
        over_U: What each trace adds to the numerator.
        under_U: What it adds to the denominator; ones for the mean of traces.
        rng: Source of the draws.
        draws: Number of resamples.

    Returns:
        Lower and upper end.
    """

    def ratio(times_BU: NDArray[np.float64], _: slice) -> NDArray[np.float64]:
        return ((times_BU @ over_U) / (times_BU @ under_U))[:, None]

    low, high = intervals(ratio, [len(over_U)], 1, rng, draws)
    return float(low[0]), float(high[0])
