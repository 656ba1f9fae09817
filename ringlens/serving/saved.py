"""Saved responses as records: what an import of files reads, twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ringlens.errors import ServingError
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.problem import Problem
from ringlens.serving.exchange import exchanges
from ringlens.serving.records import imported_run, trace_record
from ringlens.serving.responses import Answer, Exchange
from ringlens.serving.served_model import ServedModel
from ringlens.serving.server_kinds import Engine
from ringlens.serving.target import fingerprint
from ringlens.store.schema.records import RunRecord, TraceRecord


@dataclass(frozen=True)
class SavedResponses:
    """Responses in files, each choice a trace.

    Attributes:
        engine: Who answered.
        model: What was served.
        paths: The files.
        problems: What was asked, for grading.
        prompt_start: Position of the first row of routing; None to take it from the requests.
    """

    engine: Engine
    model: ServedModel
    paths: tuple[Path, ...]
    problems: tuple[Problem, ...]
    prompt_start: int | None

    def run(self) -> RunRecord:
        """The constants of the run."""
        asked = {
            "engine": self.engine.name,
            "model": [self.model.name, self.model.revision],
            "tokenizer": tokenizer_digest(self.model.tokenizer),
            "files": [_digest(path) for path in self.paths],
            "problems": [(problem.id, problem.prompt) for problem in self.problems],
            "prompt_start": self.prompt_start,
        }
        return imported_run(
            self.model,
            self.engine.name,
            routing=self.engine.decode is not None,
            seed=0,
            sampling={},
            fingerprint=fingerprint(asked),
        )

    def outcomes(self) -> Iterator[TraceRecord | ServingError]:
        """Each choice of each response as a record, or why it cannot be one."""
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
        answers = self.engine.read(exchange)
        start = self.prompt_start
        return answers if start is None else [replace(each, start=start) for each in answers]

    def _record(self, answer: Answer) -> TraceRecord:
        self.engine.check(answer)
        problem = self._named.get(answer.name) or self._asked.get(answer.asked or "")
        return trace_record(self.model, answer, self.engine.decode, 0, problem)

    @cached_property
    def _named(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}

    @cached_property
    def _asked(self) -> dict[str, Problem]:
        return {problem.prompt: problem for problem in self.problems}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ServingError(f"cannot read {path}: {error.strerror}") from error
