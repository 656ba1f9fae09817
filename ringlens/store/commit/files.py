"""Stages, publishes and discards the files of one commit."""

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

MAX_WORKERS = 8
"""Largest default of encoding threads; more compete for the disk and need memory for pages."""


def default_workers() -> int:
    """Default number of encoding threads: the cores that this process may use, from 2 to 8."""
    known = hasattr(os, "sched_getaffinity")  # on Linux
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(2, min(MAX_WORKERS, cores))


class CommitFiles:
    """Files that one process writes for a commit.

    Args:
        folder: The store's folder.
        commit: The reservation.
        rank: Rank of this process among those that write the commit.
        workers: Number of encoding threads.

    Attributes:
        commit: The reservation.
        files: Staged files by path; staging a path again replaces the first file.
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
        """Write one file of a table to the staging folder, and flush it.

        Args:
            table: The table.
            groups: Row groups of the file, in order.
            trace_ids: Traces with rows in the file; empty for a table without traces.
            part: Suffix that distinguishes several files of one table.
            write: Writes the file.
        """
        commit = self.commit
        part = layout.part_of(self._rank) + part
        path = layout.file_path(table.name, commit.run_id, commit.commit_id, part)
        staged = self.folder.staging / layout.staged_name(path, commit.writer)
        rows = write(staged, table, groups)
        # After writing: a caller may fill `trace_ids` while its row groups are consumed.
        span = (min(trace_ids), max(trace_ids)) if trace_ids else (0, 0)
        # Read back from the page cache, which holds the file still; so the checksum is of what
        # the file has, not of what was meant to be in it.
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
        """Stage the rows of some traces in all tables, sorted by trace.

        Encoding takes nearly all the time of a commit and releases the GIL, so tables, and shares
        of large tables, are encoded in parallel.
        """
        pool = ThreadPoolExecutor(self._workers)
        try:
            waiting = [pool.submit(work) for work in self._work(tables, trace_ids, traces, run)]
            for each in waiting:
                each.result()
        except BaseException:
            # An interrupt ends the wait, not the threads. They have to finish first, or they would
            # create files after the commit was discarded.
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
        """List the encoding tasks, longest first, so that all workers finish at about one time."""
        pairs = sorted(zip(trace_ids, traces, strict=True), key=lambda pair: pair[0])
        usage_work = partial(self._stage_usage, pairs, trace_ids, run)
        work = [(encoders.usage_cost(traces), usage_work)]
        for table in tables:
            shares = encoders.shares(table, traces, self._workers)
            for share in shares:
                # Row groups are generators: nothing is encoded before a worker asks for it.
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
        """Stage the rows of both rollup tables for the routing of some traces."""
        run_id = self.commit.run_id
        rows = [
            [expert_usage.batch(table, run_id, cells) for table in usage_tables.TABLES]
            for cells in expert_usage.of_records(pairs, run.experts)
        ]
        for table, *batches in zip(usage_tables.TABLES, *rows, strict=True):
            if batches:
                self.stage(table, batches, trace_ids)

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
