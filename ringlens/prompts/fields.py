"""From a row of a file to a problem, with an id made from what it asks where the row has none."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ringlens.errors import ProblemError
from ringlens.messages import Message, checked_messages
from ringlens.problem import FIELDS, Problem, check_problem, check_prompt

Row = tuple[str, Mapping[str, Any]]
"""Where something stands, for errors, and what stands there by key."""

MakeId = Callable[[str, Iterable[Message]], str]
"""Makes an id from a prompt, and the messages that it ends."""


def content_id(prompt: str, messages: Iterable[Message] = ()) -> str:
    """An id made from what is asked: the same for the same prompt, wherever it comes from."""
    listed = list(messages)
    alone = [{"role": "user", "content": prompt}]
    asked = prompt if listed in ([], alone) else json.dumps(listed, sort_keys=True)
    return "prompt-" + hashlib.sha256(asked.encode()).hexdigest()[:16]


class ProblemIds:
    """Ids that were given out: content ids that come again are counted, others refused."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def made(self, prompt: str, messages: Iterable[Message] = ()) -> str:
        """The id of a prompt: behind its content's, "-2" for the second of equal ones."""
        base = content_id(prompt, messages)
        self._seen[base] += 1
        return base if self._seen[base] == 1 else f"{base}-{self._seen[base]}"

    def taken(self, given: str, place: str) -> str:
        """An id of the row's own.

        Raises:
            ProblemError: It occurred before.
        """
        if given in self._seen:
            raise ProblemError(f"{place}: id {given!r:.60} occurs twice.")
        self._seen[given] += 1
        return given


def problems_of(rows: Iterable[Row]) -> Iterator[Problem]:
    """The problems of rows, one by one.

    Raises:
        ProblemError: A row lacks a prompt, has an unknown key or one of the wrong type, or cannot
            be stored or graded; or an id occurs twice.
    """
    ids = ProblemIds()
    for place, row in rows:
        problem = problem_of(row, place, ids.made)
        if row.get("id") is not None:
            ids.taken(problem.id, place)
        yield problem


def problem_of(row: Mapping[str, Any], place: str, made: MakeId) -> Problem:
    """The problem of a row.

    Args:
        row: The row.
        place: Where it stands, for errors.
        made: Makes the id of a row that has none.

    Raises:
        ProblemError: It lacks a prompt, has an unknown key or one of the wrong type, or cannot be
            stored or graded.
    """
    _check_keys(row, place)
    messages = checked_messages(row.get("messages") or (), f"{place}: ", ProblemError)
    prompt = _prompt(row, messages, place)
    given = row.get("id")
    problem = Problem(
        id=made(prompt, messages) if given is None else given,
        task=row.get("task", ""),
        prompt=prompt,
        answer=row.get("answer"),
        fields=row.get("fields", {}),
        messages=messages,
    )
    check_problem(problem, place)
    return problem


def _check_keys(row: Mapping[str, Any], place: str) -> None:
    unknown = sorted(row.keys() - FIELDS.keys())
    if unknown:
        raise ProblemError(
            f"{place}: unknown key {unknown[0]!r:.60}. Put what a verifier needs in fields."
        )
    for key, (types, wanted) in FIELDS.items():
        if key in row and not isinstance(row[key], types):
            raise ProblemError(f"{place}: {key!r} must be {wanted}, found {row[key]!r:.60}.")
    if "prompt" not in row and not row.get("messages"):
        raise ProblemError(
            f"{place}: 'prompt' must be a string, found {row.get('prompt')!r}; or give 'messages', "
            "a list of objects with role and content."
        )


def _prompt(row: Mapping[str, Any], messages: tuple[Message, ...], place: str) -> str:
    """What is asked: the prompt, or the last message."""
    last = str(messages[-1]["content"]) if messages else None
    prompt = str(row.get("prompt", last))
    check_prompt(prompt, f"{place}: the prompt", ProblemError)
    if last is not None and prompt != last:
        raise ProblemError(f"{place}: prompt and last message differ; give one of them.")
    return prompt
