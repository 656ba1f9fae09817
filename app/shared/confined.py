"""Analyses of tokens that people select: their predicates run in the sandbox."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ringlens.errors import StoreError
from ringlens.sandbox.confined_store import LIMITS, ConfinedStore
from ringlens.sandbox.sandbox import Sandbox
from ringlens.store import Store

R = TypeVar("R")

AT_ONCE = 2
"""Analyses at a time: each asks one query after another, and the sandbox runs as many at once."""

PATIENCE = 30.0
"""Seconds that an analysis waits for its turn."""


class Confined:
    """A store for analyses of people's predicates; its processes start when first needed.

    Safe for threads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def ask(self, analysis: Callable[..., R], **arguments: Any) -> R:
        """Apply an analysis as :meth:`ConfinedStore.ask` does, and raise what it raises.

        Raises:
            StoreError: Too many others are asked at the moment.
        """
        if not self._turns.acquire(timeout=PATIENCE):
            raise StoreError(
                f"{AT_ONCE} other questions of this kind took longer than {PATIENCE:g} s: ask again"
            )
        try:
            return ConfinedStore(self._store, self._started()).ask(analysis, **arguments)
        finally:
            self._turns.release()

    def _started(self) -> Sandbox:
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(self._store, LIMITS)
            return self._sandbox

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()
