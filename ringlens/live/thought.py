"""A thought as the page sees it: where it stands in the queue, and its tokens so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ringlens.live.asked import Asked

Token = list[Any]
"""Its text, the place of its phase in `ringlens.store.schema.captured.PHASES`, its entropy in nats
or None."""

Grade = dict[str, Any]

Seen = tuple[int, int]
"""The edition of a thought that somebody has seen, and how many of its tokens."""


@dataclass
class Thought:
    """One thought of the queue.

    Attributes:
        number: Its number in this session.
        pair: What thoughts that stand side by side share.
        asked: What is asked.
        beside: Whether it is the plain run that another is to be seen beside.
        state: "waiting", "running", "stopping", "done" or "failed".
        tokens: Its tokens so far, those of the prompt first.
        edition: Grows when tokens that were told before are read otherwise.
        trace_id: Its trace in the store, once a part of it is committed.
        reason: Why it ended: "stop", "length" or "interrupted".
        grade: ``answer`` that it gave and whether that is ``correct``, where a problem was asked
            and its thought is whole.
        error: Why it failed.
    """

    number: int
    pair: int
    asked: Asked
    beside: bool = False
    state: str = "waiting"
    tokens: list[Token] = field(default_factory=list)
    edition: int = 0
    trace_id: int | None = None
    reason: str | None = None
    grade: Grade | None = None
    error: str | None = None
    written: int = 0
    began: float | None = None
    ended: float | None = None

    def begin(self) -> None:
        """It is given to the model."""
        self.state, self.began = "running", time.monotonic()

    def grow(self, tokens: Sequence[Token], reread: Mapping[str, int]) -> None:
        """Take tokens that follow, and other phases for earlier ones."""
        for pos, phase in reread.items():
            self.tokens[int(pos)][1] = phase
        self.edition += bool(reread)
        self.tokens += tokens
        self.written += sum(phase > 0 for _, phase, _ in tokens)

    def end(self, reason: str, trace_id: int | None, grade: Grade | None = None) -> None:
        """It is done, and all of it is stored."""
        self.state, self.reason, self.trace_id = "done", reason, trace_id
        self.grade = grade
        self.ended = time.monotonic()

    def take_over(self, other: Thought) -> None:
        """Be what another thought was: the same question, answered already."""
        self.tokens, self.written = other.tokens, other.written
        self.began, self.ended = other.began, other.ended
        self.state, self.reason, self.trace_id = "done", other.reason, other.trace_id
        self.grade = other.grade

    def fail(self, error: str) -> None:
        """It ended with an error; what was committed of it stays in the store."""
        self.state, self.error, self.ended = "failed", error, time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing of it follows."""
        return self.state in ("done", "failed")

    @property
    def pace(self) -> float | None:
        """New tokens a second since it began; None before the first."""
        if self.began is None or not self.written:
            return None
        now = self.ended if self.ended is not None else time.monotonic()
        return self.written / max(now - self.began, 1e-3)

    def news(self, seen: Seen | None) -> dict[str, Any]:
        """Return it for somebody who has seen this much, as JSON holds it."""
        start = seen[1] if seen is not None and seen[0] == self.edition else 0
        return {
            "number": self.number,
            "pair": self.pair,
            "asked": self.asked.row(),
            "state": self.state,
            "trace": self.trace_id,
            "reason": self.reason,
            "grade": self.grade,
            "error": self.error,
            "written": self.written,
            "pace": self.pace,
            "edition": self.edition,
            "start": start,
            "tokens": self.tokens[start:],
        }
