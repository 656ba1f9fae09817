"""What tells right thoughts from wrong ones: measures of whole traces, compared.

Shape letters: U traces, X measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.statistics.bootstrap import DRAWS, intervals
from ringlens.analysis.statistics.fdr import q_values
from ringlens.analysis.statistics.permutation import p_values
from ringlens.analysis.trajectory.chosen_steps import of_thoughts, steps_of
from ringlens.analysis.trajectory.loops import repeats, state_of
from ringlens.config import refuse_unknown, whole
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_TOGETHER = 64
"""Resamples that are computed at once."""


@refuse_unknown
def trace_measures(store: Source, where: str | None = None) -> pd.DataFrame:
    """Measure whole traces: how long they are, what their steps do, how sure they are.

    Args:
        store: The store, cut into steps and labelled.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase.

    Returns:
        A row per trace: ``trace_id``, ``problem_id``, ``correct``; ``tokens`` in steps, ``steps``,
        ``tokens_per_step``; ``backtracks`` and ``hypotheses``, shares of steps; ``repeated``, the
        share of steps that are in loops of any length; ``entropy`` and ``logprob``, means over
        tokens; and ``role_…``, the share of steps with each role. ``attrs``: ``where``,
        ``traces``.

    Raises:
        ConfigError: The predicate is none.
        StoreError: Nothing is selected, or the traces have no steps.
    """
    selection = of_thoughts(store, where)
    steps = steps_of(store, selection)
    traces = steps.groupby("trace_id", sort=True)
    frame = traces.agg(
        problem_id=("problem_id", "first"),
        correct=("correct", "first"),
        tokens=("tokens", "sum"),
        steps=("step", "size"),
    )
    frame["tokens_per_step"] = frame["tokens"] / frame["steps"]
    flags = steps.assign(
        backtracks=_flags(steps["is_backtrack"]),
        hypotheses=_flags(steps["is_hypothesis"]),
    ).groupby("trace_id")
    for name in ("backtracks", "hypotheses"):
        frame[name] = flags[name].mean()
    states = traces["text"].apply(lambda texts: [state_of(text) for text in texts])
    frame["repeated"] = states.map(lambda path: sum(r.length for r in repeats(path)) / len(path))
    sure = store.sql(
        f"""select trace_id, avg(entropy) as entropy, avg(logprob) as logprob
        from token_context where ({selection.where}\n) group by trace_id"""
    ).df()
    frame = frame.join(sure.set_index("trace_id"))
    roles = pd.crosstab(steps["trace_id"], steps["role"], normalize="index").add_prefix("role_")
    frame = frame.join(roles).reset_index()
    frame.attrs |= {"where": selection.where, "traces": len(frame)}
    return frame


@refuse_unknown
def correct_against_wrong(
    measures: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Compare measures of right traces with those of wrong ones, within problems.

    Hard problems have longer traces and more wrong ones, so a difference between traces of
    different problems says little of thinking. Where a problem has both right and wrong traces,
    these are compared with each other and those of other problems are left out; if no problem
    has both, all traces are compared, and ``attrs["within"]`` is "all traces".

    Args:
        measures: A row per trace with ``trace_id``, ``problem_id``, ``correct`` and numbers: of
            `trace_measures`, `path_geometry` or `confidence_windows`, or these merged.
        draws: Resamples of traces for the intervals; 0 for none.
        seed: Seed of permutations and resamples.

    Returns:
        A row per measure, by rising p: ``measure``; ``right`` and ``wrong``, means over the traces;
        ``difference``, the mean over problems of right − wrong, weighted by R·W / (R + W), R and W
        the numbers of right and wrong traces; ``effect``, the difference over the standard
        deviation within problems and outcomes (Cohen's d, with Hedges' correction); with draws its
        95% interval ``low`` and ``high`` over traces, resampled within problems and outcomes;
        ``p``, by permutation of whole traces within problems; and ``q`` over all measures.
        ``attrs``: ``within``, "problem" or "all traces"; ``traces``, ``right``, ``wrong`` and
        ``problems`` that are compared.

    Raises:
        StoreError: There are fewer than two right or two wrong traces, or no measure is known of
            all.
    """
    graded = measures[measures["correct"].notna()]
    graded = graded.assign(correct=graded["correct"].astype(bool))
    kept, within = _compared(graded)
    right_U = kept["correct"].to_numpy(bool)
    names = _numbers(kept)
    problem_U = (
        pd.factorize(kept["problem_id"], use_na_sentinel=False)[0]
        if within == "problem"
        else np.zeros(len(kept), np.int64)
    )
    value_UX = kept[names].to_numpy(np.float64)
    strata = _Strata.of(right_U, problem_U)
    difference_X, effect_X = strata.compare(np.ones((1, len(kept))), value_UX)
    frame = pd.DataFrame(
        {
            "measure": names,
            "right": value_UX[right_U].mean(axis=0),
            "wrong": value_UX[~right_U].mean(axis=0),
            "difference": difference_X[0],
            "effect": effect_X[0],
        }
    )
    rng = np.random.default_rng(seed)
    if draws := whole("draws", draws, 0):
        frame["low"], frame["high"] = _ends(strata, value_UX, rng, draws)
    frame["p"] = p_values(strata.terms(value_UX), strata, rng)
    frame["q"] = q_values(frame["p"].to_numpy())
    frame = frame.sort_values("p", kind="stable", ignore_index=True)
    frame.attrs |= {
        "within": within,
        "traces": len(kept),
        "right": int(right_U.sum()),
        "wrong": int((~right_U).sum()),
        "problems": int(kept["problem_id"].nunique()),
    }
    return frame


@dataclass(frozen=True)
class _Strata:
    """Right and wrong traces of some problems; outcomes change places within a problem.

    Attributes:
        right_U: Whether each trace is right.
        problem_U: Number of its problem.
        weight_P: R·W / (R + W) of each problem.
    """

    right_U: NDArray[np.bool_]
    problem_U: NDArray[np.int64]
    weight_P: NDArray[np.float64]

    @classmethod
    def of(cls, right_U: NDArray[np.bool_], problem_U: NDArray[np.int64]) -> _Strata:
        """Count the outcomes of each problem."""
        r_P = np.bincount(problem_U, right_U).astype(np.float64)
        n_P = np.bincount(problem_U).astype(np.float64)
        return cls(right_U, problem_U, r_P * (n_P - r_P) / n_P)

    @property
    def distinct(self) -> int:
        """Number of ways in which outcomes fall on the traces of their problems."""
        found = 1
        for problem in np.unique(self.problem_U):
            own_U = self.right_U[self.problem_U == problem]
            found *= comb(len(own_U), int(own_U.sum()))
        return found

    def observed(self) -> NDArray[np.float64]:
        """1 for right traces, [U]."""
        return self.right_U.astype(np.float64)

    def every(self) -> NDArray[np.float64]:
        """All ways, [distinct, U]."""
        ways = np.zeros((1, len(self.right_U)))
        for problem in np.unique(self.problem_U):
            at = np.flatnonzero(self.problem_U == problem)
            n, r = len(at), int(self.right_U[at].sum())
            chosen = list(combinations(range(n), r))
            own = np.zeros((len(chosen), n))
            for way, places in enumerate(chosen):
                own[way, list(places)] = 1
            ways = np.repeat(ways, len(own), axis=0)
            ways[:, at] = np.tile(own, (len(ways) // len(own), 1))
        return ways

    def draw(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Random ways, [B, U]."""
        found = np.zeros((draws, len(self.right_U)))
        for problem in np.unique(self.problem_U):
            at = np.flatnonzero(self.problem_U == problem)
            order = np.argsort(rng.random((draws, len(at))), axis=1)
            found[:, at] = order < int(self.right_U[at].sum())
        return found

    def terms(self, value_UX: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values less their problem's mean: summed over right traces, W·difference of each."""
        n_P = np.bincount(self.problem_U)
        mean_PX = np.zeros((len(n_P), value_UX.shape[1]))
        np.add.at(mean_PX, self.problem_U, value_UX)
        return value_UX - (mean_PX / n_P[:, None])[self.problem_U]

    def compare(
        self, times_BU: NDArray[np.float64], value_UX: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Differences and effects in resamples, [B, X]."""
        cell_U = self.problem_U * 2 + self.right_U
        cells = 2 * len(self.weight_P)
        member_UC = (cell_U[:, None] == np.arange(cells)).astype(np.float64)
        n_BC = times_BU @ member_UC
        weighted_BCU = times_BU[:, None, :] * member_UC.T
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_BCX = weighted_BCU @ value_UX / n_BC[:, :, None]
            r_BP, w_BP = n_BC[:, 1::2], n_BC[:, ::2]
            weight_BP = np.where(r_BP * w_BP > 0, r_BP * w_BP / (r_BP + w_BP), 0)
            apart_BPX = np.nan_to_num(mean_BCX[:, 1::2] - mean_BCX[:, ::2])
            total_B = weight_BP.sum(axis=1)[:, None]
            difference_BX = (weight_BP[:, :, None] * apart_BPX).sum(axis=1) / total_B
            square_BX = (weighted_BCU @ value_UX**2).sum(axis=1)
            inner_BX = square_BX - np.nansum(n_BC[:, :, None] * mean_BCX**2, axis=1)
            free_B = (n_BC.sum(axis=1) - (n_BC > 0).sum(axis=1))[:, None]
            spread_BX = np.sqrt(np.maximum(inner_BX, 0) / free_B)
            hedges_B = 1 - 3 / (4 * free_B - 1)
            effect_BX = np.where(spread_BX > 1e-12, hedges_B * difference_BX / spread_BX, np.nan)
        return difference_BX, effect_BX


def _compared(graded: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The traces that are compared, and within what."""
    both = graded.groupby("problem_id")["correct"].transform("nunique") == 2
    kept, within = (graded[both], "problem") if both.any() else (graded, "all traces")
    right = int(kept["correct"].sum())
    if min(right, len(kept) - right) < 2:
        raise StoreError(
            f"{right} right and {len(kept) - right} wrong traces can be compared; two of each are "
            "needed. Capture more samples of problems that the model sometimes solves."
        )
    return kept.reset_index(drop=True), within


def _flags(column: pd.Series) -> NDArray[np.float64]:
    """A flag as 0 and 1; NaN without a label."""
    return column.astype("boolean").to_numpy(np.float64, na_value=np.nan)


def _numbers(kept: pd.DataFrame) -> list[str]:
    """Measures: columns of numbers that are known of all traces."""
    found = [
        str(name)
        for name in kept.select_dtypes("number").columns
        if name != "trace_id" and kept[name].notna().all()
    ]
    if not found:
        raise StoreError("no measure is known of all traces; give columns of numbers without gaps.")
    return found


def _ends(
    strata: _Strata, value_UX: NDArray[np.float64], rng: np.random.Generator, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the intervals of the effects."""
    cell_U = strata.problem_U * 2 + strata.right_U
    order_U = np.argsort(cell_U, kind="stable")
    ordered = _Strata(strata.right_U[order_U], strata.problem_U[order_U], strata.weight_P)
    sizes = np.unique(cell_U, return_counts=True)[1]

    def effect(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.float64]:
        own_UX = value_UX[order_U][:, part]
        parts = range(0, len(times_BU), _TOGETHER)
        return np.concatenate(
            [ordered.compare(times_BU[b : b + _TOGETHER], own_UX)[1] for b in parts]
        )

    return intervals(effect, [int(size) for size in sizes], value_UX.shape[1], rng, draws)
