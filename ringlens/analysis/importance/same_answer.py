"""Which answers are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ringlens.problem import COMPARED, VERIFIERS, Problem, grade


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Whether two answers to a problem are the same.

    They are if they differ by spaces, case and dollar signs alone. Of a problem whose answers are
    compared with an expected one, they also are if the grader takes one for the other; where right
    answers may differ, as expressions that make one number do, it does not decide that.

    Args:
        problem: What was asked.
        first: An answer.
        second: Another.
    """
    if _plain(first) == _plain(second):
        return True
    if problem.task in VERIFIERS and problem.task not in COMPARED:
        return False
    expected = replace(problem, answer=first)
    return grade(expected, f"\\boxed{{{second}}}").correct is True


def grouped(problem: Problem, answers: Sequence[str]) -> list[int]:
    """Number answers so that the same ones have the same number, in order of appearance."""
    first: list[str] = []
    numbers = []
    for answer in answers:
        known = (n for n, each in enumerate(first) if same_answer(problem, each, answer))
        number = next(known, len(first))
        if number == len(first):
            first.append(answer)
        numbers.append(number)
    return numbers


def is_right(problem: Problem, answer: str) -> bool | None:
    """Whether an answer is right; None if it cannot be known."""
    return grade(problem, f"\\boxed{{{answer}}}").correct


def _plain(answer: str) -> str:
    return "".join(answer.replace("$", "").split()).casefold()
