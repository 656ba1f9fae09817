"""What a probe costs: said before it starts, counted while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """Work of a probe.

    Attributes:
        forwards: Forwards of the model.
        tokens: Tokens that go through it, all rows counted.
    """

    forwards: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forwards + other.forwards, self.tokens + other.tokens)


NOTHING = Cost()
"""No work at all."""


@dataclass(frozen=True)
class ProbeProgress:
    """How far a probe is.

    Attributes:
        traces: Traces that are done by this call.
        total: Traces that this process has to do.
        done: What was run.
        most: What will be run at most. Texts that end early make it less.
        seconds: Seconds since the start.
    """

    traces: int
    total: int
    done: Cost
    most: Cost
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """Seconds to go at most, at the speed so far; None before the first forward."""
        if not self.done.tokens:
            return None
        return self.seconds / self.done.tokens * max(0, self.most.tokens - self.done.tokens)


@dataclass
class Meter:
    """Counts what is run, and tells who wants to know.

    Attributes:
        on_progress: Called after each forward.
        most: Cost of all traces.
        total: Traces to do.
    """

    on_progress: Callable[[ProbeProgress], None] | None = None
    most: Cost = NOTHING
    total: int = 0
    _done: Cost = field(default_factory=Cost)
    _traces: int = 0
    _began: float = field(default_factory=time.monotonic)

    def add(self, forwards: int, tokens: int) -> None:
        """Count a forward."""
        self._done += Cost(forwards, tokens)
        self._tell()

    def trace_done(self, most: Cost, before: Cost) -> None:
        """Count a trace.

        Args:
            most: What it was said to take at most.
            before: What had been run before it.
        """
        self._traces += 1
        spared = Cost(
            most.forwards - (self._done.forwards - before.forwards),
            most.tokens - (self._done.tokens - before.tokens),
        )
        self.most = Cost(self.most.forwards - spared.forwards, self.most.tokens - spared.tokens)
        self._tell()

    @property
    def done(self) -> Cost:
        """What was run so far."""
        return self._done

    def _tell(self) -> None:
        if self.on_progress is not None:
            seconds = time.monotonic() - self._began
            told = ProbeProgress(self._traces, self.total, self._done, self.most, seconds)
            self.on_progress(told)
