"""One commit's files on their way: staged, flushed, renamed into place, or taken back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pyarrow as pa

from ringlens.store.encode import encoders, expert_usage
from ringlens.store.encode.encoders import Write
from ringlens.store.manifest.manifest import Commit, File, Manifest
from ringlens.store.schema import usage_tables
from ringlens.store.schema.records import TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage import layout, parquet
from ringlens.store.storage.folder import Folder

MOST_WORKERS = 8
"""More threads than this wait for each other's disk, and their pages need memory."""


def usual_workers() -> int:
    """Threads that encode a commit: the cores that this process may use, from 2 to 8."""
    known = hasattr(os, "sched_getaffinity")  # on Linux
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(2, min(MOST_WORKERS, cores))


class CommitFiles:
    """The files that one process writes for a commit.

    Args:
        folder: Where the store's files live.
        commit: The reservation.
        rank: This process among those that write the commit.
        workers: Threads that encode.

    Attributes:
        commit: The reservation.
        files: What was staged, by path; a file staged again takes the place of the first.
    """

    def __init__(self, folder: Folder, commit: Commit, rank: int = 0, workers: int = 2) -> None:
        self.folder = folder
        self.commit = commit
        self.files: dict[str, File] = {}
        self._rank, self._workers = rank, workers

    def stage(
        self,
        table: Table,
        groups: Iterable[pa.RecordBatch],
        trace_ids: Sequence[int] = (),
        part: str = "",
        write: Write = parquet.write,
    ) -> None:
        """Write and flush one table's file in the staging folder.

        Args:
            table: The table.
            groups: Its row groups, in order.
            trace_ids: The traces whose rows they are; none for a table without traces.
            part: Tells several files of one table apart.
            write: Writes a file.
        """
        commit = self.commit
        part = layout.part_of(self._rank) + part
        path = layout.file_path(table.name, commit.run_id, commit.commit_id, part)
        staged = self.folder.staging / layout.staged_name(path, commit.writer)
        rows = write(staged, table, groups)
        span = (min(trace_ids), max(trace_ids)) if trace_ids else (0, 0)
        size, checksum = staged.stat().st_size, parquet.checksum(staged)
        self.folder.hand_over(staged, path)
        self.files[path] = File(path, table.name, commit.run_id, *span, rows, size, checksum)

    def stage_traces(
        self,
        tables: Sequence[Table],
        trace_ids: Sequence[int],
        traces: Sequence[TraceRecord],
        run: RunShape,
    ) -> None:
        """Stage the rows of some traces in all tables that have any, sorted by trace.

        Encoding takes nearly all the time of a commit and leaves the interpreter free, so tables,
        and shares of large tables, are encoded side by side.
        """
        pool = ThreadPoolExecutor(self._workers)
        try:
            waiting = [pool.submit(work) for work in self._work(tables, trace_ids, traces, run)]
            for each in waiting:
                each.result()
        except BaseException:
            # An interrupt ends the wait, not the threads: what they write must be whole before
            # it can be taken back.
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()

    def _work(
        self,
        tables: Sequence[Table],
        trace_ids: Sequence[int],
        traces: Sequence[TraceRecord],
        run: RunShape,
    ) -> list[Callable[[], None]]:
        """What is to be encoded: the longest first, so that the workers end together."""
        pairs = sorted(zip(trace_ids, traces, strict=True), key=lambda pair: pair[0])
        usage_work = partial(self._stage_usage, pairs, trace_ids, run)
        work = [(encoders.usage_cost(traces), usage_work)]
        for table in tables:
            shares = encoders.shares(table, traces, self._workers)
            for share in shares:
                if (groups := encoders.row_groups(table, pairs, run, share)) is None:
                    continue
                part = layout.part_of_share(share.index)
                write = encoders.writer_of(table, traces, parquet.write)
                stage = partial(self.stage, table, groups, trace_ids, part, write)
                work.append((encoders.cost(table, traces) / len(shares), stage))
        return [each for _, each in sorted(work, key=lambda pair: pair[0], reverse=True)]

    def _stage_usage(
        self, pairs: Sequence[tuple[int, TraceRecord]], trace_ids: Sequence[int], run: RunShape
    ) -> None:
        """Stage what the routing of some traces sums up to, in both rollup tables."""
        run_id = self.commit.run_id
        rows = [
            [expert_usage.batch(table, run_id, cells) for table in usage_tables.TABLES]
            for cells in expert_usage.of_records(pairs, run.experts)
        ]
        for table, *batches in zip(usage_tables.TABLES, *rows, strict=True):
            if batches:
                self.stage(table, batches, trace_ids)

    def take_back(self) -> None:
        """Remove what this process has in the staging folder."""
        rank = layout.part_of(self._rank)
        names = f"{self.commit.writer}-{self.commit.commit_id:08d}{rank}-*.part"
        for path in self.folder.staging.glob(names):
            path.unlink(missing_ok=True)


def new_ids(commit: Commit, traces: Sequence[TraceRecord]) -> list[int]:
    """The ids of a commit's traces: their own, and the reserved ones for those that are new."""
    new = count(commit.first_trace)
    return [next(new) if trace.trace_id is None else trace.trace_id for trace in traces]


def publish(folder: Folder, commit: Commit, files: Iterable[File]) -> None:
    """Bring files to where they belong. They count only once the manifest has them."""
    names = [(layout.staged_name(file.path, commit.writer), file.path) for file in files]
    folder.publish((folder.staging / staged, path) for staged, path in names)


def discard(folder: Folder, manifest: Manifest, commit: Commit, by: str) -> None:
    """Remove every file that an unfinished commit can have left, then its reservation.

    Args:
        folder: Where the store's files live.
        manifest: Its manifest.
        commit: The commit.
        by: The writer that does it.
    """
    if not manifest.take_over(commit, by):
        return  # interrupted after the commit point: the files belong to the store
    for staged in folder.staging.glob(f"{commit.writer}-{commit.commit_id:08d}-*.part"):
        staged.unlink(missing_ok=True)
    for path in layout.left_behind(folder, commit.run_id, commit.commit_id):
        folder.remove(path)
    manifest.forget(commit)
