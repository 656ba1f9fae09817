"""Whether measures of importance agree, and whether they still do once headroom is taken away.

Shape letters: N steps, X columns, U problems, W resamples.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.importance import CONTROLS, MEASURES
from ringlens.config import known_only, refuse_unknown, whole
from ringlens.errors import StoreError

DRAWS = 1_000
"""Resamples of problems."""

LEAST = 8
"""Fewest steps of which a correlation is computed."""


@refuse_unknown
def importance_agreement(
    frame: pd.DataFrame,
    *,
    controls: tuple[str, ...] = CONTROLS,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare measures of importance with each other, and with what else explains them.

    Args:
        frame: A table of `importance`.
        controls: Columns that are taken away in the partial correlations.
        draws: Resamples of problems for the intervals; 0 for none.
        seed: Seed of these.

    Returns:
        A row per pair of measures, and of a measure and a control: ``first``, ``second``;
        ``steps`` and ``problems`` that have both; ``rank``, Spearman's correlation, with its 95%
        interval over problems ``low`` and ``high``; and of two measures ``partial``, the same of
        what is left of the ranks when those of the controls are taken away by least squares, with
        ``partial_low`` and ``partial_high``. NaN where a column is the same everywhere, of fewer
        than `LEAST` steps, and intervals of one problem. ``attrs``: ``controls``.

    Raises:
        ConfigError: There is no such control.
        StoreError: Fewer than two measures are there.
    """
    known_only(controls, [name for name in frame if frame[name].dtype.kind in "fiub"], "control")
    draws, rng = whole("draws", draws, 0), np.random.default_rng(seed)
    measures = [name for name in MEASURES if frame[name].notna().any()]
    if len(measures) < 2:
        raise StoreError(
            f"only {', '.join(measures) or 'nothing'} was measured: run a second probe of "
            "suppression, resampling and belief."
        )
    rows = [_compared(frame, pair, controls, draws, rng) for pair in combinations(measures, 2)]
    rows += [
        _compared(frame, (measure, control), (), draws, rng)
        for measure in measures
        for control in controls
    ]
    found = pd.DataFrame(rows)
    found.attrs["controls"] = controls
    return found


def rank_correlation(first_N: NDArray[Any], second_N: NDArray[Any]) -> float:
    """Spearman's rank correlation; NaN if either is the same everywhere."""
    return _correlation(average_ranks(first_N), average_ranks(second_N))


def partial_rank_correlation(
    first_N: NDArray[Any], second_N: NDArray[Any], control_NX: NDArray[Any]
) -> float:
    """Correlation of what is left of two ranks when the ranks of controls are taken away."""
    ranks_NX = np.column_stack([np.ones(len(first_N)), *(map(average_ranks, control_NX.T))])
    left = []
    for values_N in (first_N, second_N):
        rank_N = average_ranks(values_N)
        fitted, *_ = np.linalg.lstsq(ranks_NX, rank_N, rcond=None)
        rest_N = rank_N - ranks_NX @ fitted
        # What the controls explain wholly leaves rounding, which correlates with anything.
        left.append(np.where(np.abs(rest_N) < 1e-8 * len(rest_N), 0.0, rest_N))
    return _correlation(left[0], left[1])


def _compared(
    frame: pd.DataFrame,
    pair: tuple[str, str],
    controls: tuple[str, ...],
    draws: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A row."""
    own = frame.dropna(subset=[*pair, *controls])
    problem_N = pd.factorize(own["problem_id"], use_na_sentinel=False)[0]
    U = int(problem_N.max()) + 1 if len(own) else 0
    values_NX = own[[*pair, *controls]].to_numpy(np.float64)
    found = {"first": pair[0], "second": pair[1], "steps": len(own), "problems": U}
    found |= dict.fromkeys(
        ("rank", "low", "high", "partial", "partial_low", "partial_high"), np.nan
    )
    if len(own) < LEAST:
        return found
    found |= _of(values_NX)
    if U > 1 and draws:
        members = [np.flatnonzero(problem_N == u) for u in range(U)]
        drawn = [
            _of(values_NX[np.concatenate([members[u] for u in rng.integers(0, U, U)])])
            for _ in range(draws)
        ]
        for name in ("rank", "partial"):
            values_W = np.array([each.get(name, np.nan) for each in drawn])
            ends = ("low", "high") if name == "rank" else ("partial_low", "partial_high")
            if np.isfinite(values_W).all():
                found |= dict(zip(ends, np.percentile(values_W, [2.5, 97.5]), strict=True))
    return found


def _of(values_NX: NDArray[np.float64]) -> dict[str, float]:
    """Correlations of the first two columns, the others being controls."""
    first_N, second_N, control_NX = values_NX[:, 0], values_NX[:, 1], values_NX[:, 2:]
    found = {"rank": rank_correlation(first_N, second_N)}
    if control_NX.shape[1]:
        found["partial"] = partial_rank_correlation(first_N, second_N, control_NX)
    return found


def average_ranks(values_N: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks, those of equal values averaged."""
    _, place_N, count = np.unique(values_N, return_inverse=True, return_counts=True)
    mean = np.cumsum(count) - (count - 1) / 2
    found: NDArray[np.float64] = mean[place_N]
    return found


def _correlation(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> float:
    first_N, second_N = first_N - first_N.mean(), second_N - second_N.mean()
    scale = np.sqrt((first_N**2).sum() * (second_N**2).sum())
    return float((first_N * second_N).sum() / scale) if scale else float("nan")
