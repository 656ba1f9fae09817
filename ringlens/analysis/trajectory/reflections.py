"""The ledger of reflection: which answers a thought held, one after another, and what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.analysis.statistics.permutation import SignFlips, p_values
from ringlens.analysis.trajectory.candidates import Finder, stated_answers
from ringlens.analysis.trajectory.chosen_steps import of_thoughts, steps_of
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.problem import Problem, from_row, grade

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

CHANGES = ("confirmatory", "corrective", "overturned", "repeated", "changed")
"""true → true, false → true, true → false, false → the same false, false → another false."""


@refuse_unknown
def reflections(
    store: Source,
    where: str | None = None,
    *,
    candidates: Finder = stated_answers,
    seed: int = 0,
) -> pd.DataFrame:
    """List the candidate answers of each trace, and what each changed (after arXiv 2510.08308).

    Each is graded as the final answer is, by the problem's grader. The final answer comes last.

    Args:
        store: The store, cut into steps.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase.
        candidates: Finds the candidates in a step's text, given its role; by default what it boxes,
            or states after words such as "the answer is".
        seed: Seed of the permutations, where there are too many to compute all.

    Returns:
        A row per candidate: ``trace_id``, ``problem_id``; ``number``, from 1; ``step`` and ``role``
        (missing for the final answer); ``answer``; ``correct``, None if it cannot be known; and
        ``change`` against the candidate before: "confirmatory" (true → true), "corrective" (false →
        true), "overturned" (true → false), "repeated" (false → the same answer), "changed" (false →
        another false one), None for the first and where something is unknown. ``attrs``: ``where``;
        ``traces`` with candidates that are graded; ``changes``, how many of each; ``first`` and
        ``last``, the shares of traces whose first and last candidate is right; and ``p`` of their
        difference, by sign flips of whole traces.

    Raises:
        ConfigError: The predicate is none.
        StoreError: Nothing is selected, the traces have no steps, or no trace states an answer.
    """
    selection = of_thoughts(store, where)
    steps = steps_of(store, selection)
    listed = ", ".join(str(int(trace)) for trace in steps["trace_id"].unique())
    traces = store.sql(
        f"""select trace_id, problem_id, task, prompt, expected, answer, correct from traces
        where trace_id in ({listed}) order by trace_id"""
    ).df()
    traces = traces.astype(object).where(traces.notna(), None)
    of_trace = dict(list(steps.groupby("trace_id", sort=True)))
    rows: list[dict[str, Any]] = []
    for trace in traces.to_dict("records"):
        rows += _ledger(trace, of_trace[trace["trace_id"]], candidates)
    if not rows:
        raise StoreError(
            f"no trace selected by {selection.where!r:.200} states an answer that is found; give "
            "candidates = a function that finds them in a step's text."
        )
    frame = pd.DataFrame(rows).astype({"step": "Int64"})
    frame.attrs |= {"where": selection.where, **_balance(frame, seed)}
    return frame


def change(before: tuple[str, bool | None] | None, answer: str, correct: bool | None) -> str | None:
    """What a candidate changed; see `reflections`.

    Args:
        before: The candidate before it, and whether it is right; None if it is the first.
        answer: The candidate.
        correct: Whether it is right.
    """
    if before is None or before[1] is None or correct is None:
        return None
    if before[1]:
        return "confirmatory" if correct else "overturned"
    if correct:
        return "corrective"
    return "repeated" if _plain(before[0]) == _plain(answer) else "changed"


def _ledger(trace: dict[str, Any], steps: pd.DataFrame, find: Finder) -> list[dict[str, Any]]:
    """Rows of one trace."""
    problem = from_row(trace)
    found: list[tuple[Any, Any, str, bool | None]] = [
        (row["step"], row["role"], answer, _correct(problem, answer))
        for row in steps.to_dict("records")
        for answer in find(row["text"], row["role"])
    ]
    if trace["answer"] is not None:
        found.append((pd.NA, None, trace["answer"], trace["correct"]))
    rows, before = [], None
    for number, (step, role, answer, correct) in enumerate(found, 1):
        rows.append(
            {
                "trace_id": trace["trace_id"],
                "problem_id": trace["problem_id"],
                "number": number,
                "step": step,
                "role": role,
                "answer": answer,
                "correct": correct,
                "change": change(before, answer, correct),
            }
        )
        before = (answer, correct)
    return rows


def _correct(problem: Problem, answer: str) -> bool | None:
    return grade(problem, f"\\boxed{{{answer}}}").correct


def _balance(frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """How often the first and the last candidate are right, and what lies between."""
    graded = frame[frame["correct"].notna()]
    ends = graded.groupby("trace_id")["correct"].agg(["first", "last"]).astype(float)
    counts = frame["change"].value_counts()
    found: dict[str, Any] = {
        "traces": len(ends),
        "changes": {name: int(counts.get(name, 0)) for name in CHANGES},
    }
    if len(ends):
        terms_UX = (ends["last"] - ends["first"]).to_numpy()[:, None]
        p_X = p_values(terms_UX, SignFlips(len(ends)), np.random.default_rng(seed))
        found |= {"first": float(ends["first"].mean()), "last": float(ends["last"].mean())}
        found["p"] = float(p_X[0])
    return found


def _plain(answer: str) -> str:
    """An answer without spaces and marks of formulas."""
    return "".join(answer.replace("$", "").split()).casefold()
