"""Saved responses: JSON and JSONL files, read one exchange at a time and made into records.

A row is a response; an object with ``request`` and ``response``; or a row of an OpenAI batch, whose
response has a ``body``. A JSON file holds one row or a list of them, a JSONL file one a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from ringlens.errors import ServingError
from ringlens.files import regular
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.problem import Problem
from ringlens.serving.fields import parsed
from ringlens.serving.records import imported_run, trace_record
from ringlens.serving.responses import Answer, Exchange
from ringlens.serving.served_model import ServedModel
from ringlens.serving.server_kinds import ServerKind
from ringlens.serving.target import fingerprint
from ringlens.store.schema.records import RunRecord, TraceRecord

LARGEST_ROW = 1_000_000_000
"""Most bytes of a JSON file, or characters of a line of JSONL."""

_IN_LINES = "save one response a line, in a .jsonl file."


@dataclass(frozen=True)
class SavedResponses:
    """Responses in files; each choice becomes a trace.

    Attributes:
        kind: Kind of server that answered.
        model: What was served.
        paths: The files.
        problems: What was asked, for grading.
        prompt_start: Position of the first row of routing; None to take it from the requests.
    """

    kind: ServerKind
    model: ServedModel
    paths: tuple[Path, ...]
    problems: tuple[Problem, ...]
    prompt_start: int | None

    def run(self) -> RunRecord:
        """The constants of the run."""
        asked = {
            "engine": self.kind.name,  # stores of today have this key: resuming depends on it
            "model": [self.model.name, self.model.revision],
            "tokenizer": tokenizer_digest(self.model.tokenizer),
            "files": [_digest(path) for path in self.paths],
            "problems": [(problem.id, problem.prompt) for problem in self.problems],
            "prompt_start": self.prompt_start,
        }
        return imported_run(
            self.model,
            self.kind.name,
            routing=self.kind.decode is not None,
            seed=0,
            sampling={},
            fingerprint=fingerprint(asked),
        )

    def outcomes(self) -> Iterator[TraceRecord | ServingError]:
        """Each choice of each response as a record, or the reason why it cannot be one."""
        for exchange in exchanges(self.paths):
            try:
                answers = self._answers(exchange)
            except ServingError as error:
                yield error
                continue
            for answer in answers:
                try:
                    yield self._record(answer)
                except ServingError as error:
                    yield error

    def _answers(self, exchange: Exchange | ServingError) -> list[Answer]:
        if isinstance(exchange, ServingError):
            raise exchange
        answers = self.kind.read(exchange)
        start = self.prompt_start
        return answers if start is None else [replace(each, start=start) for each in answers]

    def _record(self, answer: Answer) -> TraceRecord:
        self.kind.check(answer)
        problem = self._named.get(answer.name) or self._asked.get(answer.asked or "")
        return trace_record(self.model, answer, self.kind.decode, 0, problem)

    @cached_property
    def _named(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}

    @cached_property
    def _asked(self) -> dict[str, Problem]:
        return {problem.prompt: problem for problem in self.problems}


def exchanges(paths: Iterable[Path]) -> Iterator[Exchange | ServingError]:
    """The exchanges of some files, in order; for one that cannot be read, the reason.

    Raises:
        ServingError: A file cannot be read at all.
    """
    for path in paths:
        for place, row in _rows(path):
            try:
                yield _exchange(place, row)
            except ServingError as error:
                yield error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows with their places; a line of JSONL is passed on as text, unparsed."""
    try:
        with _opened(path) as file:
            if path.suffix == ".jsonl":
                for number, line in enumerate(_lines(path, file), start=1):
                    if line.strip():
                        yield f"{path}, line {number}", line
                return
            text = file.read()
    except OSError as error:
        raise ServingError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ServingError(f"{path} is not UTF-8 text: {error}") from error
    try:
        found = parsed(str(path), text)
    except ServingError:
        yield str(path), text  # reported with its place, like a bad line
        return
    if isinstance(found, list):
        yield from ((f"{path}, entry {number}", row) for number, row in enumerate(found))
    else:
        yield str(path), found


def _opened(path: Path) -> TextIO:
    """A file as text, if it ends (no pipe or device) and is not too large to be parsed."""
    try:
        size = regular(path).st_size
    except ValueError as error:  # a NUL in its name
        raise ServingError(f"{str(path)!r} is no name of a file: {error}") from error
    if path.suffix != ".jsonl" and size > LARGEST_ROW:
        raise ServingError(f"{path} has {size:,} bytes: {_IN_LINES}")
    return path.open(encoding="utf-8-sig")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Lines of a file, none of which is read past the limit."""
    while line := file.readline(LARGEST_ROW + 1):
        if len(line) > LARGEST_ROW:
            raise ServingError(f"{path} has a line of over {LARGEST_ROW:,} characters: {_IN_LINES}")
        yield line


def _exchange(place: str, row: Any) -> Exchange:
    row = parsed(place, row) if isinstance(row, str) else row
    if not isinstance(row, Mapping) or not isinstance(row.get("response"), Mapping | list):
        if isinstance(row, Mapping) and "custom_id" in row:  # a failed row of a batch
            raise ServingError(
                f"{place}: an error in place of a response: {str(row.get('error'))[:300]}"
            )
        return Exchange(row, {}, place)
    response, request = row["response"], row.get("request") or {}
    if isinstance(response, Mapping) and isinstance(response.get("body"), Mapping):
        response = response["body"]
    if isinstance(request, Mapping) and isinstance(request.get("body"), Mapping):
        request = request["body"]
    if not isinstance(request, Mapping):
        raise ServingError(f"{place}: the request is {type(request).__name__}, not an object")
    return Exchange(response, request, place, str(row.get("custom_id") or ""))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ServingError(f"cannot read {path}: {error.strerror}") from error
