"""Completions: problems with what was written about them, by any engine or person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ringlens.display import quoted
from ringlens.errors import ProblemError
from ringlens.plain import half_pair, shown
from ringlens.problem import Problem
from ringlens.prompts.fields import Row, content_id, problem_of
from ringlens.prompts.kinds import KINDS, How, rows_of
from ringlens.prompts.stream import opened

KEY = "completion"
"""Key of a row that holds what was written."""

FORMS = ("JSON lines", "JSON")
"""Kinds of files that hold completions."""


@dataclass(frozen=True, repr=False)
class Completion:
    """A problem, and a text that was written about it.

    Attributes:
        problem: What was asked.
        text: What was written. Where it holds ``<think>`` or ``</think>`` it is a thought and an
            answer, and a thought that is cut off begins with ``<think>``; without either it is an
            answer alone.
    """

    problem: Problem
    text: str

    def __repr__(self) -> str:
        return f"Completion({self.problem!r}, {quoted(self.text)})"


def is_file(name: str) -> bool:
    """Whether the name of a file is one of completions."""
    return Path(name).suffix.lower() in {end for kind in FORMS for end in KINDS[kind][0]}


def completions(source: str | PathLike[str]) -> list[Completion]:
    """Read completions from JSON lines, or from JSON that is a list.

    Args:
        source: The file. A row has the keys of a problem (``prompt`` or ``messages``, and
            optionally ``id``, ``task``, ``answer`` and ``fields``) and ``completion``. Rows of one
            id, or of one prompt without an id, are samples of one problem.

    Raises:
        ProblemError: A row lacks its completion, is malformed, or says something else of a problem
            than an earlier row; or there is none.
    """
    file = Path(source)
    with opened(file) as stream:
        found = list(_completions(rows_of(stream, str(file), file.suffix, How())))
    if not found:
        raise ProblemError(f"{file} holds no completions; write a JSON object a line.")
    return found


def sample_numbers(given: Iterable[Completion]) -> Iterator[int]:
    """The number of each completion among those of its problem."""
    seen: Counter[str] = Counter()
    for each in given:
        yield seen[each.problem.id]
        seen[each.problem.id] += 1


def _completions(rows: Iterable[Row]) -> Iterator[Completion]:
    known: dict[str, Problem] = {}
    for place, row in rows:
        text = checked_text(row.get(KEY), place)
        rest: dict[str, Any] = {key: value for key, value in row.items() if key != KEY}
        problem = problem_of(rest, place, content_id)
        if known.setdefault(problem.id, problem) != problem:
            raise ProblemError(
                f"{place}: the problem {problem.id!r:.60} differs from an earlier one of this id; "
                "give it another id."
            )
        yield Completion(known[problem.id], text)


def checked_text(text: object, place: str) -> str:
    """What was written, refused where it is none.

    Raises:
        ProblemError: It is missing, empty, no text, or holds NUL or half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise ProblemError(f"{place}: {KEY!r} must be a text, found {shown(text)}.")
    if (wrong := half_pair(text)) is not None:
        raise ProblemError(f"{place}: {KEY!r} holds {wrong}.")
    if not text.strip() or "\0" in text:
        what = "holds a NUL, which is no text" if "\0" in text else "is empty"
        raise ProblemError(f"{place}: {KEY!r} {what}; leave the row out.")
    return text
