"""When a thought had decided: from which step on its answer stays the final one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.analysis.importance.belief import belief
from ringlens.analysis.importance.results import about_steps
from ringlens.analysis.importance.same_answer import same_answer
from ringlens.analysis.statistics.bootstrap import ratio_interval
from ringlens.analysis.trajectory.candidates import stated_answers
from ringlens.config import refuse_unknown
from ringlens.problem import from_row

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@refuse_unknown
def convergence(store: Source, run_id: str | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Find when each thought had decided on the answer that it gave in the end.

    Args:
        store: The store, with results of the probe "belief".
        run_id: The run; None for all runs.
        seed: Seed of the resamples.

    Returns:
        A row per trace: ``trace_id``, ``problem_id``, ``correct``; ``steps`` of its thinking and
        the ``last_step``; ``answer`` in the end; ``converged_at``, the first step behind which the
        final answer is the most probable of all and stays so (-1: before the first step; missing:
        it never is, or the thought gave no answer); ``stated_at``, the first step that states it
        (missing: none does); ``left``, the share of its steps that come behind ``converged_at``;
        and ``changes``, how often the most probable answer changed. ``attrs``: ``traces`` with an
        answer; ``before_last``, the share of these that converge before their last step, with its
        95% interval over problems ``low`` and ``high`` (NaN of one); ``before_stated``, the share
        of those that state it which converge before they do; ``unanswered``, traces without an
        answer; and ``said``, the same in a sentence.

    Raises:
        StoreError: The probe was not run.
    """
    trajectory = belief(store, run_id)
    ids = [int(each) for each in trajectory["trace_id"].unique()]
    steps = dict(list(about_steps(store, ids).groupby("trace_id")))
    listed = ", ".join(map(str, ids))
    traces = store.sql(
        f"""select trace_id, problem_id, task, prompt, expected, answer, correct from traces
        where trace_id in ({listed})"""
    ).to_arrow_table()
    about = {row["trace_id"]: row for row in traces.to_pylist()}
    rows = [
        _row(about[int(trace)], own, steps[trace])
        for trace, own in trajectory.groupby("trace_id", sort=True)
    ]
    frame = pd.DataFrame(rows)
    for name in ("converged_at", "stated_at"):
        frame[name] = frame[name].astype("Int64")
    frame.attrs |= _summed(frame, seed)
    return frame


def _row(trace: dict[str, Any], own: pd.DataFrame, steps: pd.DataFrame) -> dict[str, Any]:
    """One thought."""
    names = own["answer"].to_numpy()
    last, S = int(steps["step"].iloc[-1]), len(steps)
    converged = _converged(own)
    behind = float("nan") if converged is None else float((steps["step"] > converged).mean())
    return {
        "trace_id": trace["trace_id"],
        "problem_id": trace["problem_id"],
        "correct": trace["correct"],
        "steps": S,
        "last_step": last,
        "answer": trace["answer"],
        "converged_at": converged,
        "stated_at": _stated(trace, steps),
        "left": behind,
        "changes": int((names[1:] != names[:-1]).sum()),
    }


def _converged(own: pd.DataFrame) -> int | None:
    """The first place from which on the most probable answer is the final one."""
    if own["is_final"].isna().any():
        return None
    held_K = (own["is_final"] & own["held"]).to_numpy(bool)
    wrong = np.flatnonzero(~held_K)
    first = int(wrong[-1]) + 1 if len(wrong) else 0
    return None if first == len(held_K) else int(own["step"].iloc[first])


def _stated(trace: dict[str, Any], steps: pd.DataFrame) -> int | None:
    """The first step that states the final answer."""
    if trace["answer"] is None:
        return None
    problem = from_row(trace)
    for step, role, text in zip(steps["step"], steps["role"], steps["text"], strict=True):
        said = stated_answers(text, role)
        if any(same_answer(problem, answer, trace["answer"]) for answer in said):
            return int(step)
    return None


def _summed(frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Shares over traces, and their interval over problems."""
    answered = frame[frame["answer"].notna()]
    before = answered["converged_at"].lt(answered["last_step"]).fillna(False).astype(float)
    stated = answered[answered["stated_at"].notna()]
    earlier = stated["converged_at"].lt(stated["stated_at"]).fillna(False).astype(float)
    problem = answered["problem_id"].fillna("")
    over, under = before.groupby(problem).sum(), before.groupby(problem).size()
    low = high = float("nan")
    if len(over) > 1:
        rng = np.random.default_rng(seed)
        low, high = ratio_interval(over.to_numpy(), under.to_numpy(np.float64), rng)
    found = {
        "traces": len(answered),
        "unanswered": len(frame) - len(answered),
        "before_last": float(before.mean()) if len(before) else float("nan"),
        "low": low,
        "high": high,
        "before_stated": float(earlier.mean()) if len(earlier) else float("nan"),
    }
    return found | {"said": _sentence(found, len(over), len(stated))}


def _sentence(found: dict[str, Any], problems: int, stated: int) -> str:
    """The shares in words."""
    if not found["traces"]:
        return f"{found['unanswered']} traces, none of which gave an answer"
    interval = ""
    if problems > 1:
        interval = (
            f" (95% interval over {problems} problems: {found['low']:.0%} to {found['high']:.0%})"
        )
    before = f"{found['before_last']:.0%} converge before their last step{interval}"
    lost = f"; {found['unanswered']} without an answer are left out" if found["unanswered"] else ""
    earlier = f"; of {stated} that state it, {found['before_stated']:.0%} before they do"
    return f"of {found['traces']} thoughts, {before}{earlier if stated else ''}{lost}"
