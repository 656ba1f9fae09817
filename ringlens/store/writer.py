"""StoreWriter: traces, or parts of them, into a store, each commit wholly or not at all."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ringlens.errors import NotInStoreError, ObservationError, StoreError
from ringlens.store import encode, layout, schema
from ringlens.store.checks import check_run, check_trace
from ringlens.store.commit import CommitFiles, discard, publish, usual_workers
from ringlens.store.failure import sentences
from ringlens.store.folder import Folder, Lock, folder_at
from ringlens.store.manifest import Commit, Completion, File, Manifest, Start
from ringlens.store.peers import ALONE, Peers, agreed
from ringlens.store.records import RunRecord, TraceRecord
from ringlens.store.rewriter import Rewriter
from ringlens.store.shape import RunShape
from ringlens.store.supersede import Spoken, end_run, parts_of, replace_traces
from ringlens.store.sweep import delete_retired, sweep

T = TypeVar("T")
R = TypeVar("R")

Staged = tuple[list[File], Spoken | None]
"""What a rank has staged for a commit, and what the speaker says about its traces."""


class StoreWriter:
    """Writes runs and traces to a store; any number of processes may do so at once.

    A commit is written to ``staging/``, flushed, renamed into place and then registered in one
    SQLite transaction. Readers take their files from that register, so that transaction is the
    moment at which all traces of the commit exist; before it none does. What a killed writer left
    behind is removed when a writer next opens the store.

    Several ranks may write the same traces, each the layers that it owns: then all of them call
    the same methods in the same order, and a commit is registered once all have staged theirs.

    One writer serves one thread at a time.

    Args:
        path: Folder of the store; made if it is missing.
        peers: The ranks that write together, this one among them.
        workers: Threads that encode a commit; None for as many as the process may use cores, from
            2 to 8.

    Attributes:
        folder: Where the store's files live.
        bytes_written: Bytes of all files committed by this writer and its peers.

    Raises:
        StoreError: The folder cannot be written, or holds something else.
    """

    _manifest: Manifest  # on rank 0 alone
    _lock: Lock  # on rank 0 alone

    def __init__(self, path: str | Path, peers: Peers = ALONE, workers: int | None = None) -> None:
        self.folder: Folder = folder_at(path)
        self.peers = peers
        self.workers = usual_workers() if workers is None else workers
        self.bytes_written = 0
        self._shapes: dict[str, RunShape] = {}
        self._held = ExitStack()
        try:
            failed = "the store was not opened for writing"
            name = self._lead(failed, self._open)
            if peers.size > 1:
                self._agreed(failed, lambda: self._see(name), lambda _: None)
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The store's folder on this machine."""
        return self.folder.path

    def close(self) -> None:
        """Let go of the store."""
        self._held.close()

    def start_run(self, run: RunRecord) -> str:
        """Store a run's facts and its experts' biases.

        Returns:
            The run's id, unique in the store and sorted by time.

        Raises:
            ObservationError: The run's figures contradict each other.
            StoreError: It could not be written.
        """
        started = datetime.now(UTC)
        shape = RunShape.of(run)

        def reserve(_: list[None]) -> Commit:
            run_id = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
            return self._manifest.reserve(run_id, self._lock.name, traces=0)

        def stage(files: CommitFiles) -> None:
            if self.peers.rank == 0:
                run_id = files.commit.run_id
                files.stage(schema.RUNS, [encode.run_batch(run_id, run, started)])
                files.stage(schema.EXPERTS, [encode.expert_batch(run_id, run)])

        start = Start(shape.to_json(), run.fingerprint)
        commit = self._transact(lambda: check_run(run), reserve, stage, started=start)
        assert commit is not None
        self._shapes[commit.run_id] = shape
        return commit.run_id

    def commit(self, run_id: str, traces: Sequence[TraceRecord]) -> list[int]:
        """Store traces, or the next parts of traces: all of them or none.

        Args:
            run_id: Their run, as `start_run` returned it, also in another process.
            traces: The traces. A few at a time make few, larger files. Every rank gives its
                records of the same traces in the same order.

        Returns:
            Their trace ids, unique in the store.

        Raises:
            ObservationError: A trace does not have the run's shape, or does not go on where its
                stored part ends.
            NotInStoreError: There is no such run, or no such trace to continue.
            StoreError: The traces could not be written, or another rank failed. Whatever is
                raised, nothing of these records is in the store.
        """
        shape = self._shape(run_id)

        def check() -> list[int | None]:
            for trace in traces:
                check_trace(trace, shape)
            return _distinct([trace.trace_id for trace in traces])

        def reserve(ranks: list[list[int | None]]) -> Commit | None:
            for rank, ids in enumerate(ranks):
                if ids != ranks[0]:
                    raise StoreError(
                        f"rank {rank} commits the traces {ids}, rank 0 {ranks[0]}: pass records "
                        f"of the same traces in the same order"
                    )
            new = ranks[0].count(None)
            return self._manifest.reserve(run_id, self._lock.name, new) if traces else None

        def stage(files: CommitFiles) -> Spoken | None:
            ids = _trace_ids(files.commit, traces)
            speaks = self.peers.rank == self.peers.speaker
            tables = [t for t in schema.tables(shape.experts) if speaks or t is not schema.TOKENS]
            files.stage_traces(tables, ids, traces, shape)
            if not speaks:
                return None
            return Spoken(encode.trace_batch(run_id, ids, traces), parts_of(traces))

        commit = self._transact(check, reserve, stage)
        return _trace_ids(commit, traces) if commit is not None else []

    def finish_run(self, run_id: str) -> None:
        """Note that a run has ended.

        Raises:
            NotInStoreError: There is no such run.
            StoreError: It could not be written.
        """
        self._shape(run_id)
        self._transact(
            lambda: None,
            lambda _: self._manifest.reserve(run_id, self._lock.name, traces=0),
            lambda _: None,
            finished=datetime.now(UTC),
        )

    def unfinished(self, fingerprint: str) -> str | None:
        """The latest run of this fingerprint that no living process works on, to be resumed.

        The run is this writer's from here on: another process that asks is told of it only when
        this writer is closed or its process gone.

        Args:
            fingerprint: As in the `RunRecord` that started the run; no run is found by "".

        Returns:
            The run's id; None if there is no such run.

        Raises:
            StoreError: The store could not be read or written.
        """
        return self._lead(
            "unfinished runs could not be looked up",
            lambda: (
                self._manifest.claim(fingerprint, self._lock.name, self.folder.dead_writers)
                if fingerprint
                else None
            ),
        )

    def resume(self, run_id: str) -> None:
        """Continue a run that another process left unfinished.

        Raises:
            NotInStoreError: There is no such run.
            StoreError: It has ended, or another process works on it.
        """
        self._shape(run_id)

        def take() -> None:
            if self._manifest.is_finished(run_id):
                raise StoreError(f"run {run_id} has ended: start a new one")
            if not self._manifest.take(run_id, self._lock.name, self.folder.dead_writers):
                raise StoreError(f"another process works on run {run_id}: wait for it or stop it")

        self._lead("the run was not resumed", take)

    def rewriter(self) -> Rewriter:
        """What replaces committed files in the name of this writer. Rank 0 only."""
        return Rewriter(self.folder, self._manifest, self._lock.name)

    def _open(self) -> str:
        """Open the store on rank 0; return the name of its lock."""
        layout.prepare(self.folder)
        self._manifest = self.folder.make_manifest()
        self._held.callback(self._manifest.close)
        layout.mark(self.folder)
        self._lock = self.folder.lock()
        self._held.callback(self._lock.release)
        sweep(self.folder, self._manifest)
        return self._lock.name

    def _see(self, name: str) -> None:
        """Make sure that this rank sees the folder that rank 0 opened."""
        if not self.folder.is_locked(name):
            raise StoreError(
                f"{self.folder} is not the folder that rank 0 writes to: give a path on a disk "
                f"that all ranks share"
            )

    def _agreed(self, failed: str, mine: Callable[[], T], then: Callable[[list[T]], R]) -> R:
        """`agreed`, where failures of the disk are sentences that end with ``failed``."""

        def my_part() -> T:
            with sentences(self.folder, failed):
                return mine()

        def rank_0s_part(values: list[T]) -> R:
            with sentences(self.folder, failed):
                return then(values)

        return agreed(self.peers, my_part, rank_0s_part)

    def _lead(self, failed: str, work: Callable[[], R]) -> R:
        """Work that rank 0 does for all."""
        return self._agreed(failed, lambda: None, lambda _: work())

    def _transact(
        self,
        check: Callable[[], T],
        reserve: Callable[[list[T]], Commit | None],
        stage: Callable[[CommitFiles], Spoken | None],
        started: Start | None = None,
        finished: datetime | None = None,
    ) -> Commit | None:
        """One commit of all ranks: reserved, staged by each, completed by rank 0, or taken back.

        Args:
            check: What each rank looks at before anything is written.
            reserve: Rank 0's reservation, given the results of ``check``; None if there is
                nothing to commit.
            stage: What each rank stages.
            started: Facts of the run that the commit starts.
            finished: End of the run that the commit ends.

        Returns:
            The reservation.
        """
        commit: Commit | None = None

        def reserve_it(checked: list[T]) -> Commit | None:
            nonlocal commit
            commit = reserve(checked)
            return commit

        failed = "nothing of this commit was stored"
        try:
            commit = self._agreed(failed, check, reserve_it)
            if commit is None:
                return None
            files = CommitFiles(self.folder, commit, self.peers.rank, self.workers)

            def stage_it() -> Staged:
                spoken = stage(files)
                return list(files.files.values()), spoken

            complete = partial(self._complete, commit, started=started, finished=finished)
            self.bytes_written += self._agreed(failed, stage_it, complete)
        except BaseException:
            if commit is not None:
                with suppress(OSError, sqlite3.Error):  # else the next writer clears it away
                    self._take_back(commit)
            raise
        return commit

    def _complete(
        self,
        commit: Commit,
        ranks: list[Staged],
        started: Start | None,
        finished: datetime | None,
    ) -> int:
        """Publish and register what all ranks have staged; return its bytes. Rank 0 only."""
        staged = [file for own, _ in ranks for file in own]
        publish(self.folder, commit, staged)
        _, spoken = ranks[self.peers.speaker]
        while True:
            new = CommitFiles(self.folder, commit)
            retire: list[str] = []
            if spoken is not None:
                retire = replace_traces(self._manifest, new, spoken)
            if finished is not None:
                retire = end_run(self._manifest, new, finished)
            publish(self.folder, commit, new.files.values())
            all_files = [*staged, *new.files.values()]
            ended = finished.isoformat() if finished is not None else None
            outcome = self._manifest.complete(commit, all_files, retire, started, ended)
            if outcome is Completion.DONE:
                break
            if outcome is Completion.CLEARED:
                raise StoreError(f"commit {commit.commit_id} was cleared away by another writer")
            for path in new.files:  # another writer replaced the same files: look again
                self.folder.remove(path)
        with suppress(OSError, sqlite3.Error):  # else a later writer deletes them
            delete_retired(self.folder, self._manifest)
        return sum(file.bytes for file in all_files)

    def _take_back(self, commit: Commit) -> None:
        """Remove what a commit that failed has left: rank 0 everything, others what is theirs."""
        if self.peers.rank == 0:
            discard(self.folder, self._manifest, commit)
        else:
            CommitFiles(self.folder, commit, self.peers.rank).take_back()

    def _shape(self, run_id: str) -> RunShape:
        if run_id not in self._shapes:

            def look_up() -> str:
                text = self._manifest.run_shape(run_id)
                if text is None:
                    raise NotInStoreError(
                        f"there is no run {run_id} in {self.folder}: start it first"
                    )
                return text

            text = self._lead("the run could not be looked up", look_up)
            self._shapes[run_id] = RunShape.from_json(text)
        return self._shapes[run_id]


def _distinct(ids: list[int | None]) -> list[int | None]:
    """The ids, if no trace is among them twice."""
    known = [trace_id for trace_id in ids if trace_id is not None]
    for trace_id in known:
        if known.count(trace_id) > 1:
            raise ObservationError(
                f"trace {trace_id} is continued twice in one commit: pass one record a trace"
            )
    return ids


def _trace_ids(commit: Commit, traces: Sequence[TraceRecord]) -> list[int]:
    """The ids of a commit's traces: their own, and the reserved ones for those that are new."""
    new = count(commit.first_trace)
    return [next(new) if trace.trace_id is None else trace.trace_id for trace in traces]
