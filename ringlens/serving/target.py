"""The run that an import writes to: begun or resumed, added to, and ended."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ringlens.errors import ServingError
from ringlens.observe.resume import finished_items
from ringlens.observe.session import OnProgress, Progress
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain.compact import tidy
from ringlens.store.schema.records import RunRecord, TraceRecord

log = logging.getLogger(__name__)

TOGETHER = 32
"""Traces in a commit."""

EVERY = 5.0
"""Seconds after which fewer are committed."""


@dataclass
class Target:
    """A run of a store to which traces are added.

    Attributes:
        folder: Folder or address of the store.
        writer: Writes to it.
        run_id: The run.
        done: Items whose traces are committed.
        waiting: Traces that are not committed yet.
        progress: How many traces there are.
        on_progress: Called after each trace.
        committed: Time of the last commit, of ``time.monotonic``.
    """

    folder: str | Path
    writer: StoreWriter
    run_id: str
    done: set[int]
    waiting: list[TraceRecord] = field(default_factory=list)
    progress: Progress = field(default_factory=lambda: Progress(0, 0))
    on_progress: OnProgress | None = None
    committed: float = field(default_factory=time.monotonic)

    def expect(self, total: int, on_progress: OnProgress | None) -> None:
        """Set how many traces there will be, and whom to report to."""
        self.progress, self.on_progress = Progress(len(self.done), total), on_progress

    def add(self, record: TraceRecord) -> None:
        """Add a trace; it is committed soon, together with others."""
        self.waiting.append(record)
        late = time.monotonic() - self.committed >= EVERY
        if late or len(self.waiting) >= TOGETHER:
            self.commit()
        self._report(len(record.tokens.token_id))

    def commit(self) -> None:
        """Commit what is waiting."""
        # Emptied first: an interrupt after the commit must not cause a second one.
        records, self.waiting, self.committed = self.waiting, [], time.monotonic()
        self.writer.commit(self.run_id, records)
        self.done |= {record.item for record in records if record.item is not None}

    def _report(self, tokens: int) -> None:
        self.progress = replace(
            self.progress,
            traces=len(self.done) + len(self.waiting),
            tokens=self.progress.tokens + tokens,
            bytes_written=self.writer.bytes_written,
        )
        if self.on_progress is not None:
            self.on_progress(self.progress)


@contextmanager
def open_target(store: str | Path | Store, run: RunRecord) -> Iterator[Target]:
    """Open a new run, or the one that the same call left unfinished.

    It is ended if nothing goes wrong. What came before an error or an interrupt is committed.
    """
    folder = store.address if isinstance(store, Store) else store
    with StoreWriter(folder) as writer:
        left = writer.unfinished(run.fingerprint)
        if left is not None:
            log.info("resuming run %s, which was interrupted", left)
            writer.resume(left)
        run_id = left or writer.start_run(run)
        target = Target(folder, writer, run_id, finished_items(folder, run_id))
        try:
            yield target
        finally:
            target.commit()
        if not target.done:
            raise ServingError("no answer could be imported, for the reasons given above.")
        writer.finish_run(run_id)
        tidy(writer.rewriter(), run_id)


def fingerprint(asked: dict[str, Any]) -> str:
    """Digest of what an import is asked for, which is the same for the same call."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
