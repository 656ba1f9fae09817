"""Runs the queries of ``/sql`` in a sandbox, started when first needed; keeps the last answers."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

import pyarrow as pa

from ringlens.errors import NotInStoreError, RinglensError
from ringlens.sandbox.sandbox import Answer, Limits, Sandbox
from ringlens.store import Store

KEPT = 16
"""Answers that can still be charted and downloaded; each has at most `Limits.bytes`."""


class Console:
    """Runs what people type on the page. Safe for threads.

    Args:
        store: The store.
        limits: What a query may take.
    """

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self.store = store
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def refusal(self) -> str | None:
        """Say why no query can be run here, and what to do; None if it can. Starts the workers."""
        try:
            self._started()
        except RinglensError as error:
            return str(error)
        return None

    def run(self, query: str, name: str) -> tuple[str, Answer]:
        """Run a query that can be cancelled by its name; return its id and the answer.

        Raises:
            RinglensError: It did not work; the message says why.
        """
        answer = self._started().sql(query, name)
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._answers[key] = answer
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)
        return key, answer

    def cancel(self, name: str) -> bool:
        """Stop a query."""
        return self._started().cancel(name)

    def answer(self, key: str) -> Answer:
        """Return an answer that was given.

        Raises:
            NotInStoreError: It is not kept any more.
        """
        with self._lock:
            if key not in self._answers:
                raise NotInStoreError(f"only the last {KEPT} answers are kept: run the query again")
            return self._answers[key]

    def table(self, key: str) -> pa.Table:
        """Return the rows of an answer. Raises NotInStoreError if it is not kept any more."""
        return self.answer(key).table

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.close()

    def _started(self) -> Sandbox:
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(self.store, self.limits)
            return self._sandbox
