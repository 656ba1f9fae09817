"""Columns of a table of problems: the prompts, and where there are answers these."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ringlens.errors import ProblemError

ASKED = "prompt"
"""The column that is taken where none is named."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes:
        prompt: Column of the prompts; None: "prompt".
        answer: Column of the expected answers; None if they are unknown.
        after: What answers stand behind in their cells, as "####" in GSM8K.
        task: The verifier of the answers; "" for text.
    """

    prompt: str | None = None
    answer: str | None = None
    after: str | None = None
    task: str = ""

    @property
    def first_given(self) -> str:
        """The first of the arguments that are given, as a message names it; "" without any."""
        given = {"column=": self.prompt, "answer=": self.answer, "task=": self.task}
        return next((name for name, value in given.items() if value), "")

    def places(self, names: Sequence[str], table: str) -> tuple[int, int | None]:
        """Where the columns stand among others.

        Raises:
            ProblemError: One is not there, or there twice.
        """
        if not names:
            raise ProblemError(f"{table} holds no problems: it has no row that names its columns.")
        advice = "" if self.prompt is not None else " Name the one of the prompts (column=)."
        prompt = _index(names, ASKED if self.prompt is None else self.prompt, table, advice)
        return prompt, None if self.answer is None else _index(names, self.answer, table, "")

    def row(self, prompt: Any, answer: Any, place: str) -> dict[str, str]:
        """The keys of a problem from its cells.

        Raises:
            ProblemError: A cell is null or no text, or an answer lacks what it stands behind.
        """
        asked = _text(prompt, ASKED if self.prompt is None else self.prompt, place)
        found = {"prompt": asked} | ({"task": self.task} if self.task else {})
        if self.answer is not None:
            given = str(answer) if type(answer) is int else answer
            found["answer"] = self._behind(_text(given, self.answer, place), place)
        return found

    def _behind(self, answer: str, place: str) -> str:
        if self.after is None:
            return answer
        _, mark, behind = answer.rpartition(self.after)
        if not mark:
            raise ProblemError(f"{place}: there is no {self.after!r:.40} in {answer!r:.60}.")
        return behind.strip()


def _text(cell: Any, column: str, place: str) -> str:
    if cell is None:
        raise ProblemError(f"{place}: {column!r:.60} is null; leave the row out.")
    if not isinstance(cell, str):
        kind = type(cell).__name__
        raise ProblemError(f"{place}: {column!r:.60} is {kind}, and no text; name another column.")
    return cell


def _index(names: Sequence[str], wanted: str, table: str, advice: str) -> int:
    """Where a column stands."""
    if wanted in names:
        if names.count(wanted) > 1:
            raise ProblemError(f"{table} has two columns {wanted!r:.60}; rename one of them.")
        return names.index(wanted)
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r:.60}?" if near else ""
    named = ", ".join(repr(each)[:60] for each in names[:20])
    raise ProblemError(f"{table} has no column {wanted!r:.60}.{hint}{advice} Columns: {named}.")
