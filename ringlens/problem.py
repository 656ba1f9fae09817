"""Problems with verifiable answers, and their graders.

A problem set is a JSONL file, one problem a line: ``id``, ``task``, ``prompt``, and where there is
one ``answer`` (a string) and ``fields`` (an object for the task's verifier).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ringlens.data import countdown, path
from ringlens.errors import ProblemError

TASKS = (countdown.TASK,)
SPLITS = ("heldout", "train")


@dataclass(frozen=True)
class Problem:
    """A prompt with what is needed to verify an answer.

    Attributes:
        id: Unique in its set.
        task: Names the verifier; unknown tasks are verified by comparing text.
        prompt: What is asked, without any chat template.
        answer: The expected answer, or one of many right ones; None where none is known.
        fields: What the task's verifier needs.
    """

    id: str
    task: str
    prompt: str
    answer: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """The answer found in a text (None: there is none) and whether it is right (None: unknown)."""

    answer: str | None
    correct: bool | None


def problems(
    source: str | PathLike[str],
    n: int | None = None,
    *,
    split: str = "heldout",
    seed: int | None = None,
) -> list[Problem]:
    """Problems of a bundled task or of a JSONL file.

    Args:
        source: A bundled task ("countdown") or the path of a ``.jsonl`` file.
        n: How many; None for all.
        split: Split of a bundled task, "heldout" (ring-nano never saw these) or "train".
            A file has no splits.
        seed: None takes the first ``n``; a number draws ``n`` in random order by this seed.

    Raises:
        ProblemError: There is no such source or split, the file is empty or malformed, or it
            holds fewer than ``n`` problems.
    """
    found = read(_locate(source, split))
    if n is None:
        n = len(found)
    if not 1 <= n <= len(found):
        raise ProblemError(
            f"{n} problems asked of {source}; it holds {len(found)}. Ask for 1 to {len(found)}."
        )
    return found[:n] if seed is None else random.Random(seed).sample(found, n)


def read(file: Path) -> list[Problem]:
    """All problems of a JSONL file.

    Raises:
        ProblemError: The file is missing, unreadable, empty or malformed (naming the line).
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ProblemError(f"cannot read problems from {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ProblemError(f"{file} is not UTF-8 text: {error}.") from error
    found: dict[str, Problem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem = _parse(line, f"{file}, line {number}")
        if problem.id in found:
            raise ProblemError(f"{file}, line {number}: id {problem.id!r} occurs twice.")
        found[problem.id] = problem
    if not found:
        raise ProblemError(f"{file} holds no problems. Write one JSON object a line.")
    return list(found.values())


def from_row(row: Mapping[str, Any]) -> Problem:
    """The problem of a row of the store's ``traces``, gradable like the one it was made from.

    ``fields`` are not stored; verifiers find what they need in the prompt or expected answer.
    """
    return Problem(
        id=row["problem_id"] or "",
        task=row["task"] or "",
        prompt=row["prompt"],
        answer=row["expected"],
    )


def grade(problem: Problem, text: str) -> Grade:
    r"""Find the answer after ``</think>`` and verify it.

    The answer is the last ``\boxed{…}`` after the last ``</think>``, or else the last line that is
    not blank, up to the end of the turn. A text that never stops thinking has no answer, which is
    wrong wherever an answer can be verified.
    """
    answer = find_answer(text)
    verifier = VERIFIERS.get(problem.task, _verify_text)
    return Grade(answer, verifier(problem, answer if answer is not None else ""))


def find_answer(text: str) -> str | None:
    """The answer in a model's text; None if it has none."""
    _, closed, tail = text.rpartition("</think>")
    if not closed:
        return None
    tail = re.split(r"<\|[^|>\s]+\|>|<role>", tail, maxsplit=1)[0]
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", tail)
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return boxed[-1].strip() if boxed else lines[-1] if lines else None


def _verify_countdown(problem: Problem, answer: str) -> bool:
    stated = problem.fields
    if stated:
        return countdown.verify(tuple(stated["numbers"]), stated["target"], answer)
    parsed = countdown.parse_prompt(problem.prompt) or _solved(problem.answer)
    if parsed is None:
        raise ProblemError(
            f"problem {problem.id!r}: neither fields nor prompt nor expected answer say which "
            f"numbers make which target ({problem.prompt[:80]!r}). Give fields numbers and target."
        )
    return countdown.verify(*parsed, answer)


def _solved(answer: str | None) -> tuple[tuple[int, ...], int] | None:
    """Numbers and target of a right answer."""
    try:
        target, used = countdown.value(answer or "")
    except ValueError:
        return None
    return (tuple(used.elements()), int(target)) if target.denominator == 1 else None


def _verify_text(problem: Problem, answer: str) -> bool | None:
    return None if problem.answer is None else _normal(answer) == _normal(problem.answer)


VERIFIERS: dict[str, Callable[[Problem, str], bool | None]] = {countdown.TASK: _verify_countdown}
"""Task → function that says whether an answer is right, None where it cannot know."""


def _normal(text: str) -> str:
    """Case, spacing, dollar signs and a closing full stop do not matter."""
    return " ".join(text.replace("$", " ").split()).removesuffix(".").casefold()


def _locate(source: str | PathLike[str], split: str) -> Path:
    if source in TASKS:
        if split not in SPLITS:
            raise ProblemError(f"no split {split!r} of {source}; there are {', '.join(SPLITS)}.")
        return path(f"{source}.{split}.jsonl")
    file = Path(source)
    if not file.is_file():
        raise ProblemError(
            f"no problems under {str(source)!r}: neither a bundled task ({', '.join(TASKS)}) nor a "
            "JSONL file."
        )
    return file


def _parse(line: str, place: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ProblemError(f"{place}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise ProblemError(f"{place}: expected a JSON object, found {type(row).__name__}.")
    unknown = sorted(row.keys() - _TYPES.keys())
    if unknown:
        raise ProblemError(
            f"{place}: unknown key {unknown[0]!r}. Put what a verifier needs in fields."
        )
    for key, (types, wanted, needed) in _TYPES.items():
        if (key not in row and needed) or (key in row and not isinstance(row[key], types)):
            raise ProblemError(f"{place}: {key!r} must be {wanted}, found {row.get(key)!r}.")
    problem = Problem(**row)
    if problem.task == countdown.TASK:
        _check_countdown(problem, place)
    return problem


def _check_countdown(problem: Problem, place: str) -> None:
    numbers, target = problem.fields.get("numbers"), problem.fields.get("target")
    whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if problem.fields and not (whole and numbers and type(target) is int):
        raise ProblemError(
            f"{place}: fields of countdown are numbers (a list of whole numbers) and target (a "
            f"whole number), found {dict(problem.fields)!r}."
        )
    if not problem.fields and not (
        countdown.parse_prompt(problem.prompt) or _solved(problem.answer)
    ):
        raise ProblemError(f"{place}: countdown needs fields numbers and target.")


# Key → types, the types in words, whether it must be there.
_TYPES: dict[str, tuple[tuple[type, ...], str, bool]] = {
    "id": ((str,), "a string", True),
    "task": ((str,), "a string", True),
    "prompt": ((str,), "a string", True),
    "answer": ((str, type(None)), "a string or null", False),
    "fields": ((dict,), "an object", False),
}
