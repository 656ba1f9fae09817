"""How fast running captures come along, from what the store has of them at each look."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ringlens.store import Store

WINDOW = 60.0
"""Seconds that a pace is of."""


@dataclass(frozen=True)
class Pace:
    """Tokens of a run in a time.

    Attributes:
        tokens: Tokens committed.
        seconds: In so many seconds.
        since_start: Whether that is all of the time since the run began.
    """

    tokens: int
    seconds: float
    since_start: bool = False

    def __str__(self) -> str:
        return f"{self.tokens / self.seconds:,.{0 if self.tokens >= 10 * self.seconds else 1}f}"


class Paces:
    """Remembers how many tokens each running run had, and when. Safe for threads.

    Args:
        store: The store; only its life matters.
        clock: Tells the time in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        del store
        self._clock = clock
        self._lock = threading.Lock()
        self._looks: dict[str, deque[tuple[float, int]]] = {}

    def of(self, run_id: str, tokens: int, started: datetime) -> Pace | None:
        """Return the pace of a run that has so many tokens now; None before its first."""
        now = self._clock()
        with self._lock:
            looks = self._looks.setdefault(run_id, deque())
            if not looks or looks[-1][1] != tokens:
                looks.append((now, tokens))
            while len(looks) > 2 and now - looks[1][0] > WINDOW:
                looks.popleft()
            (first, before), (last, after) = looks[0], looks[-1]
        if after > before:
            return Pace(after - before, max(last - first, 1e-3))
        age = (datetime.now(UTC) - started.replace(tzinfo=UTC)).total_seconds()
        return Pace(tokens, max(age, 1e-3), since_start=True) if tokens else None
