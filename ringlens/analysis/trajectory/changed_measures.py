"""How thinking changed by a further training: measures of traces, before and after.

Shape letters: U problems, X measures.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.analysis.statistics.fdr import q_values
from ringlens.analysis.statistics.permutation import SignFlips, p_values
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError

_ROLE = "role_"
_CHECKING = "role_self_checking"


@refuse_unknown
def changed_measures(
    before: pd.DataFrame, after: pd.DataFrame, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Compare the thoughts of two checkpoints about the same problems.

    Traces of one problem are averaged, so that a problem counts once.

    Args:
        before: A row per trace of the checkpoint before, of `trace_measures`.
        after: The same of the one after.
        draws: Resamples of problems for the intervals; 0 for none.
        seed: Seed of permutations and resamples.

    Returns:
        A row per measure, by rising p: ``measure``, those of `trace_measures`, with ``correct`` and
        ``checks``, the number of steps that check; ``before`` and ``after``, means over problems;
        ``difference``; ``effect``, the difference over the standard deviation of the problems'
        differences (Cohen's d of pairs); with draws the 95% interval of the difference, ``low`` and
        ``high``; ``p``, by exchanging the checkpoints within whole problems; and ``q`` over all
        measures. ``attrs``: ``problems`` and ``left_out``, those that one checkpoint lacks.

    Raises:
        ConfigError: A frame is none of `trace_measures`.
        StoreError: There are fewer than two problems of both.
    """
    first, second = (_of_problems(each) for each in (before, after))
    problems = first.index.intersection(second.index)
    enough_traces(
        len(problems), "what changed on problems that both checkpoints answered", "problem"
    )
    names = [*dict.fromkeys((*first.columns, *second.columns))]
    # A role that no step of a checkpoint has is no column of its table.
    filled = [
        table.reindex(index=problems, columns=names).fillna(
            {name: 0 for name in names if name.startswith(_ROLE) and name not in table.columns}
        )
        for table in (first, second)
    ]
    known = [name for name in names if all(table[name].notna().all() for table in filled)]
    before_UX, after_UX = (table[known].to_numpy(np.float64) for table in filled)
    apart_UX = after_UX - before_UX
    spread_X = apart_UX.std(axis=0, ddof=1)
    difference_X = apart_UX.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect_X = np.where(spread_X > 0, difference_X / spread_X, np.nan)
    frame = pd.DataFrame(
        {
            "measure": known,
            "before": before_UX.mean(axis=0),
            "after": after_UX.mean(axis=0),
            "difference": difference_X,
            "effect": effect_X,
        }
    )
    rng = np.random.default_rng(seed)
    if draws := whole("draws", draws, 0):
        frame["low"], frame["high"] = _ends(apart_UX, rng, draws)
    frame["p"] = p_values(apart_UX, SignFlips(len(problems)), rng)
    frame["q"] = q_values(frame["p"].to_numpy())
    frame = frame.sort_values("p", kind="stable", ignore_index=True)
    frame.attrs |= {
        "problems": len(problems),
        "left_out": len(first.index.union(second.index)) - len(problems),
    }
    return frame


def _of_problems(measures: pd.DataFrame) -> pd.DataFrame:
    """Means of each problem."""
    missing = {"trace_id", "problem_id", "steps"} - set(measures.columns)
    if missing:
        raise ConfigError(
            f"the table has no column {sorted(missing)[0]!r}; give what `trace_measures` returns."
        )
    table = measures.drop(columns="trace_id").dropna(subset="problem_id")
    if "correct" in table.columns:
        table["correct"] = table["correct"].astype("boolean").astype("Float64").astype(float)
    if _CHECKING in table.columns:
        table["checks"] = (table[_CHECKING] * table["steps"]).round()
    return table.groupby("problem_id", sort=True).mean(numeric_only=True)


def _ends(
    apart_UX: NDArray[np.float64], rng: np.random.Generator, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the intervals of mean differences."""
    U, X = apart_UX.shape

    def mean(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.float64]:
        return times_BU @ apart_UX[:, part] / U

    return intervals(mean, [U], X, rng, draws)
