"""Problems with verifiable answers, and their graders.

A problem set is a JSONL file, one problem a line: ``id``, ``task``, ``prompt``, and optionally
``answer`` (a string) and ``fields`` (an object for the task's verifier).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from os.path import exists
from pathlib import Path
from typing import Any

from ringlens.config import refuse_unknown, whole
from ringlens.data import countdown, path
from ringlens.errors import ProblemError
from ringlens.files import regular
from ringlens.plain import half_pair
from ringlens.strict_json import parsed_object
from ringlens.transcript import Transcript, parse

TASKS = (countdown.TASK,)
SPLITS = ("heldout", "train")

HUGE = 2**63 - 1
"""Largest number of a countdown problem."""

LARGEST = 2**30
"""Most bytes of a problem set, as it is read whole."""


@dataclass(frozen=True)
class Problem:
    """A prompt, and what is needed to verify an answer.

    Attributes:
        id: Unique within its set.
        task: Names the verifier; answers to unknown tasks are compared as text.
        prompt: What is asked, without a chat template.
        answer: The expected answer, or one of several right ones; None if unknown.
        fields: What the task's verifier needs.
    """

    id: str
    task: str
    prompt: str
    answer: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """The answer found in a text (None: no answer), and whether it is right (None: unknown)."""

    answer: str | None
    correct: bool | None


@refuse_unknown
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
        seed: None takes the first ``n``; a number seeds a random draw of ``n``.

    Raises:
        ProblemError: There is no such source or split, the file is empty or malformed or holds
            fewer than ``n`` problems, or ``n`` or ``seed`` is no whole number.
    """
    n = None if n is None else whole("n", n, -LARGEST, error=ProblemError)
    seed = None if seed is None else whole("seed", seed, 0, 2**63 - 1, error=ProblemError)
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
        ProblemError: The file is missing, no file, too large, unreadable, empty or malformed
            (naming the line).
    """
    lines = read_text(file).split("\n")
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


def read_text(file: Path) -> str:
    """The text of a file of problems or texts.

    Raises:
        ProblemError: It is missing, no regular file, too large to be read whole, unreadable, or no
            UTF-8.
    """
    try:
        size = regular(file).st_size
        if size > LARGEST:
            raise ProblemError(
                f"{file} holds {size / 2**30:.1f} GiB; it is read whole, so at most "
                f"{LARGEST / 2**30:.0f} GiB. Split it, and use the parts one by one."
            )
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProblemError(f"{file} is not UTF-8 text: {error}.") from error
    except (OSError, ValueError) as error:  # a ValueError of the path: it holds a NUL
        if isinstance(error, ProblemError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ProblemError(f"cannot read {str(file)!r}: {reason}. Give a file of text.") from error


def check_problem(problem: Problem, place: str) -> None:
    """Check a problem before it is used.

    Args:
        problem: The problem.
        place: Where it stands, for errors.

    Raises:
        ProblemError: A field has the wrong type, holds half of a surrogate pair, or lacks what the
            task's verifier needs.
    """
    for key, (types, wanted, _) in _TYPES.items():
        value = getattr(problem, key)
        mapping = key == "fields" and isinstance(value, Mapping)
        if not mapping and not isinstance(value, types):
            raise ProblemError(f"{place}: {key!r} must be {wanted}, found {value!r:.60}.")
        wrong = half_pair(value) if isinstance(value, str) else None
        if wrong is not None:
            raise ProblemError(f"{place}: {key!r} holds {wrong}.")
    if problem.task == countdown.TASK:
        _check_countdown(problem, place)


def from_row(row: Mapping[str, Any]) -> Problem:
    """The problem of a row of the store's ``traces``; it is graded like the original.

    ``fields`` are not stored: verifiers find what they need in the prompt or the expected answer.
    """
    return Problem(
        id=row["problem_id"] or "",
        task=row["task"] or "",
        prompt=row["prompt"],
        answer=row["expected"],
    )


def grade(problem: Problem, text: str | Transcript) -> Grade:
    r"""Find the answer in a text and verify it.

    The answer is the last ``\boxed{…}`` after the thought in the model's last turn, or else the
    last line of that turn that is not blank; `ringlens.transcript` says where turns and thoughts
    end. A thought that is cut off has no answer, nor has a turn that is cut off inside its last
    ``\boxed{``; no answer counts as wrong wherever an answer can be verified.

    Args:
        problem: What was asked.
        text: What the model wrote, with or without the prompt before it; or the same parsed, where
            the caller knows its marks.
    """
    answer = find_answer(text if isinstance(text, Transcript) else parse(text))
    verifier = VERIFIERS.get(problem.task, _verify_text)
    return Grade(answer, verifier(problem, answer if answer is not None else ""))


def find_answer(transcript: Transcript) -> str | None:
    """The answer in a model's last turn; None if it has none."""
    answer = transcript.answer
    if answer is None:
        return None
    boxes = _boxes(answer)
    if boxes:
        return _boxed(answer, boxes)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _boxes(text: str) -> dict[int, int | None]:
    """Where the content of each box begins and ends; None if its brace is never closed."""
    found: dict[int, int | None] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "}":
            begin = opened.pop() if opened else None
            if begin in found:
                found[begin] = match.start()
        elif match[0].endswith("{") and match[0] != "\\{":
            opened.append(match.end())
            if match[0] != "{":
                found[match.end()] = None
    return found


def _boxed(text: str, boxes: dict[int, int | None]) -> str | None:
    """The content of the last outermost box, without boxes that hold nothing but a box."""
    last, behind = -1, -1
    for begin, end in boxes.items():
        if begin > behind:
            last, behind = begin, len(text) if end is None else end
    while (end := boxes[last]) is not None:
        inner = _BOX.match(text, last, end)
        within = boxes.get(inner.end()) if inner is not None else None
        if inner is None or within is None or text[within + 1 : end].strip():
            return text[last:end].strip()
        last = inner.end()
    return None


_BOX = re.compile(r"\s*\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


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
"""Task → function that says whether an answer is right; None if it cannot know."""


def _normal(text: str) -> str:
    """A text without differences of case, spacing, dollar signs and a final full stop."""
    return " ".join(text.replace("$", " ").split()).removesuffix(".").casefold()


def _locate(source: str | PathLike[str], split: str) -> Path:
    if isinstance(source, str) and source in TASKS:
        if split not in SPLITS:
            raise ProblemError(f"no split {split!r} of {source}; there are {', '.join(SPLITS)}.")
        return path(f"{source}.{split}.jsonl")
    if not isinstance(source, str | PathLike) or not isinstance(fspath(source), str):
        raise ProblemError(
            f"cannot read problems from {source!r:.60}; give a bundled task "
            f"({', '.join(TASKS)}) or the path of a JSONL file."
        )
    file = Path(source)
    if not exists(file):  # Path.exists would raise for a name that is too long
        raise ProblemError(
            f"no problems under {str(source)!r:.200}: neither a bundled task ({', '.join(TASKS)}) "
            "nor a JSONL file."
        )
    return file


def _parse(line: str, place: str) -> Problem:
    row = parsed_object(line, place, ProblemError)
    unknown = sorted(row.keys() - _TYPES.keys())
    if unknown:
        raise ProblemError(
            f"{place}: unknown key {unknown[0]!r:.60}. Put what a verifier needs in fields."
        )
    for key, (types, wanted, needed) in _TYPES.items():
        if (key not in row and needed) or (key in row and not isinstance(row[key], types)):
            raise ProblemError(f"{place}: {key!r} must be {wanted}, found {row.get(key)!r:.60}.")
    problem = Problem(**row)
    check_problem(problem, place)
    return problem


def _check_countdown(problem: Problem, place: str) -> None:
    numbers, target = problem.fields.get("numbers"), problem.fields.get("target")
    listed = list(numbers) if isinstance(numbers, list | tuple) else []
    whole = all(type(n) is int and abs(n) <= HUGE for n in (*listed, target))
    if problem.fields and not (listed and whole):
        raise ProblemError(
            f"{place}: fields of countdown are numbers (a list of whole numbers) and target (a "
            f"whole number), found {dict(problem.fields)!r:.200}."
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
