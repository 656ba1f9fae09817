"""Stages, publishes and discards the files of one commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pyarrow as pa

from ringlens.store.encode import encoders
from ringlens.store.manifest.manifest import Commit, File, Manifest
from ringlens.store.parallel.encoding import Encoding, InThreads
from ringlens.store.parallel.job import Job, TableJob, UsageJob, Written, written
from ringlens.store.schema import usage_tables
from ringlens.store.schema.records import TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage import layout
from ringlens.store.storage.folder import Folder

IN_THREADS = InThreads(2)
"""Encodes the rows of traces where nothing else is said."""


@dataclass(frozen=True)
class _Place:
    """A file: its table, its path in the store, and where it is until it is published."""

    table: str
    path: str
    staged: Path


class CommitFiles:
    """Files that one process writes for a commit.

    Args:
        folder: The store's folder.
        commit: The reservation.
        rank: Rank of this process among those that write the commit.
        encoding: Encodes the rows of traces.

    Attributes:
        commit: The reservation.
        files: Staged files by path; staging a path again replaces the first file.
    """

    def __init__(
        self,
        folder: Folder,
        commit: Commit,
        rank: int = 0,
        encoding: Encoding = IN_THREADS,
    ) -> None:
        self.folder = folder
        self.commit = commit
        self.files: dict[str, File] = {}
        self._rank, self._encoding = rank, encoding

    def stage(
        self,
        table: Table,
        groups: Iterable[pa.RecordBatch],
        trace_ids: Sequence[int] = (),
        part: str = "",
    ) -> None:
        """Write one file of a table to the staging folder, and flush it.

        Args:
            table: The table.
            groups: Row groups of the file, in order.
            trace_ids: Traces with rows in the file; empty for a table without traces.
            part: Suffix that distinguishes several files of one table.
        """
        place = self._place(table, part)
        # The ids are read after writing: a caller may fill them while its groups are consumed.
        self._add(place, written(place.staged, table, groups), trace_ids)

    def stage_traces(
        self,
        tables: Sequence[Table],
        trace_ids: Sequence[int],
        traces: Sequence[TraceRecord],
        run: RunShape,
    ) -> None:
        """Stage the rows of some traces in all tables, sorted by trace.

        Encoding takes nearly all the time of a commit, so tables, and shares of large tables, are
        encoded in parallel.
        """
        pool = ThreadPoolExecutor(self._encoding.workers)
        try:
            jobs = self._jobs(tables, trace_ids, traces, run)
            waiting = [pool.submit(self._stage_job, *job, trace_ids) for job in jobs]
            for each in waiting:
                each.result()
        except BaseException:
            # An interrupt ends the wait, not the jobs. They have to finish first, or they would
            # create files after the commit was discarded.
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()

    def _stage_job(self, job: Job, places: Sequence[_Place], trace_ids: Sequence[int]) -> None:
        by_path = {place.staged: place for place in places}
        for file in self._encoding.encode(job):
            self._add(by_path[file.path], file, trace_ids)

    def _jobs(
        self,
        tables: Sequence[Table],
        trace_ids: Sequence[int],
        traces: Sequence[TraceRecord],
        run: RunShape,
    ) -> list[tuple[Job, list[_Place]]]:
        """List jobs and their files, longest first, so that all workers end at about one time."""
        pairs = sorted(zip(trace_ids, traces, strict=True), key=lambda pair: pair[0])
        work: list[tuple[float, Job, list[_Place]]] = []
        if cost := encoders.usage_cost(traces):
            usage = [self._place(table) for table in usage_tables.TABLES]
            paths = tuple(place.staged for place in usage)
            work.append((cost, UsageJob(pairs, self.commit.run_id, run.experts, paths), usage))
        for table in tables:
            values = encoders.values(table, traces)
            shares = encoders.shares(table, traces, self._encoding.workers)
            for share in shares:
                # Row groups are generators: nothing is encoded before a worker asks for it.
                if encoders.row_groups(table, pairs, run, share) is None:
                    continue
                place = self._place(table, layout.part_of_share(share.index))
                job = TableJob(table, pairs, run, place.staged, share, values)
                work.append((encoders.cost(table, traces) / len(shares), job, [place]))
        work.sort(key=lambda each: each[0], reverse=True)
        return [(job, places) for _, job, places in work]

    def _place(self, table: Table, part: str = "") -> _Place:
        """Where a file of a table goes."""
        commit = self.commit
        part = layout.part_of(self._rank) + part
        path = layout.file_path(table.name, commit.run_id, commit.commit_id, part)
        staged = self.folder.staging / layout.staged_name(path, commit.writer)
        return _Place(table.name, path, staged)

    def _add(self, place: _Place, file: Written, trace_ids: Sequence[int]) -> None:
        """Add a complete file to those of the commit."""
        span = (min(trace_ids), max(trace_ids)) if trace_ids else (0, 0)
        self.folder.hand_over(place.staged, place.path)
        self.files[place.path] = File(
            place.path,
            place.table,
            self.commit.run_id,
            *span,
            file.rows,
            file.size,
            file.checksum,
        )

    def take_back(self) -> None:
        """Remove the files that this process has staged."""
        rank = layout.part_of(self._rank)
        names = f"{self.commit.writer}-{self.commit.commit_id:08d}{rank}-*.part"
        for path in self.folder.staging.glob(names):
            path.unlink(missing_ok=True)


def new_ids(commit: Commit, traces: Sequence[TraceRecord]) -> list[int]:
    """Ids of a commit's traces: existing ids of continued traces, reserved ids of new ones."""
    new = count(commit.first_trace)
    return [next(new) if trace.trace_id is None else trace.trace_id for trace in traces]


def publish(folder: Folder, commit: Commit, files: Iterable[File]) -> None:
    """Move staged files to their paths, which readers ignore until the manifest lists them."""
    names = [(layout.staged_name(file.path, commit.writer), file.path) for file in files]
    folder.publish((folder.staging / staged, path) for staged, path in names)


def discard(folder: Folder, manifest: Manifest, commit: Commit, by: str) -> None:
    """Remove every file that an unfinished commit may have left, then its reservation.

    Args:
        folder: The store's folder.
        manifest: The store's manifest.
        commit: The commit.
        by: Writer that discards it.
    """
    # The order matters. Taking over first makes sure that nobody completes the commit while its
    # files are being removed. The reservation goes last: it names files that are still to be
    # removed if this process dies.
    if not manifest.take_over(commit, by):
        return  # the commit was completed before the interrupt: its files belong to the store
    for staged in folder.staging.glob(f"{commit.writer}-{commit.commit_id:08d}-*.part"):
        staged.unlink(missing_ok=True)
    for path in layout.left_behind(folder, commit.run_id, commit.commit_id):
        folder.remove(path)
    manifest.forget(commit)
