"""StoreWriter: finished traces into a store, each wholly or not at all."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from ringlens.errors import NotInStoreError, StoreError
from ringlens.store import encode, layout, schema
from ringlens.store.checks import check_run, check_trace
from ringlens.store.commit import CommitFiles, discard
from ringlens.store.failure import sentences
from ringlens.store.lock import WriterLock, dead_writers
from ringlens.store.manifest import Commit, Manifest
from ringlens.store.records import RunRecord, TraceRecord
from ringlens.store.shape import RunShape


class StoreWriter:
    """Writes runs and traces to a store; any number of processes may do so at once.

    A commit is written to ``staging/``, flushed, renamed into place and then registered in one
    SQLite transaction. Readers take their files from that register, so that transaction is the
    moment at which all traces of the commit exist; before it none does. What a killed writer left
    behind is removed when a writer next opens the store.

    One writer serves one thread at a time.

    Args:
        path: Folder of the store; made if it is missing.

    Attributes:
        bytes_written: Bytes of all files committed by this writer.

    Raises:
        StoreError: The folder cannot be written, or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.bytes_written = 0
        self._shapes: dict[str, RunShape] = {}
        with sentences(self.path, "the store was not opened for writing"):
            layout.prepare(self.path)
            self._manifest = Manifest.create(self.path)
            layout.mark(self.path)
            self._lock = WriterLock(self.path / layout.STAGING)
            self._sweep()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store."""
        self._lock.release()
        self._manifest.close()

    def start_run(self, run: RunRecord) -> str:
        """Store a run's facts and its experts' biases.

        Returns:
            The run's id, unique in the store and sorted by time.

        Raises:
            ObservationError: The run's figures contradict each other.
            StoreError: It could not be written.
        """
        check_run(run)
        started = datetime.now(UTC)
        run_id = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        shape = RunShape.of(run)
        with self._commit(run_id, 0, started=shape.to_json()) as (_, files):
            files.stage(schema.RUNS, [encode.run_batch(run_id, run, started)])
            files.stage(schema.EXPERTS, [encode.expert_batch(run_id, run)])
        self._shapes[run_id] = shape
        return run_id

    def commit(self, run_id: str, traces: Sequence[TraceRecord]) -> list[int]:
        """Store finished traces, all of them or none.

        Args:
            run_id: Their run, as `start_run` returned it, also in another process.
            traces: The traces. A few at a time make few, larger files.

        Returns:
            Their trace ids, unique in the store.

        Raises:
            ObservationError: A trace does not have the run's shape; nothing was written.
            NotInStoreError: There is no such run.
            StoreError: The traces could not be written, and none of them is in the store.
        """
        shape = self._shape(run_id)
        for trace in traces:
            check_trace(trace, shape)
        if not traces:
            return []
        with self._commit(run_id, len(traces)) as (commit, files):
            ids = list(range(commit.first_trace, commit.last_trace + 1))
            files.stage(schema.TRACES, [encode.trace_batch(run_id, ids, traces)])
            for table in schema.tables(shape.experts):
                groups = [
                    encode.row_groups(table, trace_id, trace, shape)
                    for trace_id, trace in zip(ids, traces, strict=True)
                ]
                if any(groups):  # not the empty lists of what was not recorded
                    files.stage(table, chain.from_iterable(groups))
        return ids

    def finish_run(self, run_id: str) -> None:
        """Note that a run has ended.

        Raises:
            NotInStoreError: There is no such run.
            StoreError: It could not be written.
        """
        self._shape(run_id)
        finished = datetime.now(UTC)
        with self._commit(run_id, 0, finished=finished.isoformat()) as (_, files):
            (file,) = self._manifest.files(schema.RUNS.name, run_id)
            row = pq.ParquetFile(self.path / file.path).read().to_pylist()[0]
            batch = pa.RecordBatch.from_pylist([row | {"finished": finished}], schema.RUNS.arrow)
            files.stage(schema.RUNS, [batch], replaces=file.path)

    @contextmanager
    def _commit(
        self, run_id: str, traces: int, started: str | None = None, finished: str | None = None
    ) -> Iterator[tuple[Commit, CommitFiles]]:
        with sentences(self.path, "nothing of this commit was stored"):
            commit = self._manifest.reserve(run_id, self._lock.name, traces)
            try:
                files = CommitFiles(self.path, commit)
                yield commit, files
                files.publish()
                if not self._manifest.complete(commit, files.files, started, finished):
                    raise StoreError(
                        f"commit {commit.commit_id} was cleared away by another writer"
                    )
            except BaseException:
                with suppress(OSError, sqlite3.Error):  # else the next writer clears it away
                    discard(self.path, self._manifest, commit)
                raise
        self.bytes_written += sum(file.bytes for file in files.files)

    def _shape(self, run_id: str) -> RunShape:
        if run_id not in self._shapes:
            with sentences(self.path, "the run could not be looked up"):
                text = self._manifest.run_shape(run_id)
            if text is None:
                raise NotInStoreError(f"there is no run {run_id} in {self.path}: start it first")
            self._shapes[run_id] = RunShape.from_json(text)
        return self._shapes[run_id]

    def _sweep(self) -> None:
        """Remove what dead writers left."""
        left = self._manifest.reservations()
        dead = dead_writers(self.path / layout.STAGING, {commit.writer for commit in left})
        for commit in left:
            if commit.writer in dead:
                discard(self.path, self._manifest, commit)
