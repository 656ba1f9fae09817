"""Compaction: rewrites the many small files of a run as few large ones, sorted for reading.

Only files whose traces have all ended are touched. Each group of files is one commit, so a store
can be read and written meanwhile, and a compaction that was stopped continues with the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from ringlens.errors import StoreError
from ringlens.store.commit.files import CommitFiles
from ringlens.store.commit.rewriter import Rewriter
from ringlens.store.encode import columns, expert_usage
from ringlens.store.manifest.entries import File, sharing_traces
from ringlens.store.read import intact
from ringlens.store.read.store import Store
from ringlens.store.schema import views
from ringlens.store.schema.captured import RUNNING
from ringlens.store.schema.table import Size, Table
from ringlens.store.schema.usage_tables import ALL as USAGE
from ringlens.store.schema.usage_tables import TABLES as IN_PARTS
from ringlens.store.write import stream

TARGET = 400 * 2**20
"""Approximate size of a compacted file in bytes."""

MANY, SMALL = 200, 8 * 2**20
"""A run that ends with more than `MANY` files below `SMALL` bytes in a table is compacted."""

MEMORY = "1GB"
"""Memory limit of a sort; the rest spills to the staging folder."""

SORT_BYTES = 16 * 2**20
"""Bytes of files that are sorted at a time, if the sort can be split by trace."""

THREADS = 2

FIXED = ("runs", "experts")
"""Tables with one file per run, which are never compacted."""

ROWS = 20_000
"""Rows per row group in other tables."""

USAGE_ROWS = 1_024
"""Rows per row group in usage tables, where a row has 4 kB and a trace of Ring-1T 228 rows."""

BATCH = 16_384
"""Rows per batch that leaves the sort."""


@dataclass(frozen=True)
class Group:
    """Files of one table that are rewritten together.

    Attributes:
        table: The table.
        run_id: The run.
        files: The files.
        cuts: Ranges of traces (first, last), each of which becomes one file.
    """

    table: Table
    run_id: str
    files: tuple[File, ...]
    cuts: tuple[tuple[int, int], ...]


def plan(
    store: Store,
    target: int = TARGET,
    *,
    small: int | None = None,
    run_id: str | None = None,
    running: bool = False,
) -> list[Group]:
    """Plan which files to compact: groups of two or more small files of a table and run.

    Args:
        store: The store.
        target: Approximate size of a new file in bytes; a trace is never split, even if it alone
            is larger.
        small: Bytes below which a file is small; half of ``target`` if None.
        run_id: Run to look at; all runs if None.
        running: Include unfinished runs, except for their running traces.
    """
    small = target // 2 if small is None else small
    rows = store.sql("select run_id, finished is not null from runs").fetchall()
    runs = {run for run, finished in rows if (finished or running) and run_id in (None, run)}
    lengths = dict(
        store.sql("select trace_id, n_prompt + n_think + n_answer from traces").fetchall()
    )
    unfinished = store.sql("select trace_id from traces where finish_reason = ?", [RUNNING])
    busy = sorted(trace_id for (trace_id,) in unfinished.fetchall())
    groups: list[Group] = []
    for table in store.tables():
        files = [f for f in store.files(table.name) if f.run_id in runs and f.bytes < small]
        ended = [f for f in files if not any(f.first_trace <= i <= f.last_trace for i in busy)]
        for run in sorted({f.run_id for f in ended} if table.name not in FIXED else ()):
            own = [f for f in ended if f.run_id == run]
            groups += _groups(table, run, own, lengths, target)
    return groups


def compact(
    rewriter: Rewriter, groups: Sequence[Group], on_progress: Callable[[int, int], None]
) -> None:
    """Rewrite the files of each group, one commit per group.

    A group is skipped if another writer has replaced one of its files meanwhile.

    Args:
        rewriter: Rewriter of the store.
        groups: Result of `plan`.
        on_progress: Called with the bytes done and the bytes in total.

    Raises:
        StoreError: A file is missing or damaged, or the disk is full. Groups that were committed
            before stay compacted.
    """
    done, total = 0, sum(file.bytes for group in groups for file in group.files)
    for group in groups:

        def work(files: CommitFiles, group: Group = group) -> list[str]:
            # The plan may be old. Rows of a file that has been replaced must not come back.
            there = {f.path for f in rewriter.manifest.files(group.table.name, group.run_id)}
            paths = [file.path for file in group.files]
            if not there.issuperset(paths):
                return []
            _stage(files, group)
            return paths

        rewriter.replace(group.run_id, work)
        done += sum(file.bytes for file in group.files)
        on_progress(done, total)


def tidy(rewriter: Rewriter, run_id: str) -> None:
    """Compact a run that has just ended, if one of its tables has more than `MANY` small files.

    Files of `SMALL` bytes or more are left alone, so this takes seconds even after a long run.
    """
    counts: dict[str, int] = {}
    for file in rewriter.manifest.snapshot()[2]:
        if file.run_id == run_id and file.bytes < SMALL:
            counts[file.table] = counts.get(file.table, 0) + 1
    if max(counts.values(), default=0) > MANY:
        with Store(rewriter.folder.address) as store:
            compact(rewriter, plan(store, small=SMALL, run_id=run_id), lambda done, total: None)


def _groups(
    table: Table, run_id: str, files: Sequence[File], lengths: dict[int, int], target: int
) -> Iterator[Group]:
    """Collect small files of a run until a group has about ``target`` bytes."""
    pending: list[File] = []
    for sharing in sharing_traces(files):
        pending += sharing
        if sum(file.bytes for file in pending) >= target:
            yield _group(table, run_id, pending, lengths, target)
            pending = []
    if len(pending) > 1:
        yield _group(table, run_id, pending, lengths, target)


def _group(
    table: Table, run_id: str, files: list[File], lengths: dict[int, int], target: int
) -> Group:
    """Divide the traces of some files into new files of about ``target`` bytes, by length."""
    first, last = min(f.first_trace for f in files), max(f.last_trace for f in files)
    inside = sorted(trace_id for trace_id in lengths if first <= trace_id <= last)
    tokens = sum(lengths[trace_id] for trace_id in inside)
    bytes_a_token = sum(file.bytes for file in files) / max(1, tokens)
    cuts, start, size = [], first, 0.0
    for trace_id in inside:
        size += lengths[trace_id] * bytes_a_token
        if size >= target and trace_id < last:
            cuts.append((start, trace_id))
            start, size = trace_id + 1, 0.0
    return Group(table, run_id, tuple(files), (*cuts, (start, last)))


def _stage(files: CommitFiles, group: Group) -> None:
    """Sort the rows of a group and stage its new files."""
    # Otherwise a flipped bit would be written again under a valid checksum.
    intact.require(files.folder, group.files)
    spill = files.folder.staging / f"{files.commit.writer}-{files.commit.commit_id:08d}.spill"
    try:
        for number, (first, last) in enumerate(group.cuts):
            batches = _sorted(files, group, first, last, spill)
            if group.table in IN_PARTS:
                batches = expert_usage.summed(group.table, group.run_id, batches)
            stream.stage(files, group.table, _row_groups(batches, group.table), f"-{number:04d}")
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    # A last guard before files are replaced. Where rows of one cell are summed up it says nothing.
    found, expected = (sum(f.rows for f in each) for each in (files.files.values(), group.files))
    if found != expected and group.table not in IN_PARTS:
        raise StoreError(
            f"{group.table.name} of run {group.run_id} has {found} rows in files that should hold "
            f"{expected}: run `ringlens check` to find out what is wrong"
        )


def _sorted(
    files: CommitFiles, group: Group, first: int, last: int, spill: Path
) -> Iterator[pa.RecordBatch]:
    """Rows of some traces in the order of the new files."""
    by_trace = _order(group.table)[0] == '"trace_id"'
    for sortable in _separate_sorts(group) if by_trace else [group.files]:
        yield from _sort(files, replace(group, files=tuple(sortable)), first, last, spill)


def _separate_sorts(group: Group) -> Iterator[list[File]]:
    """Split a group into files that share no trace and so can be sorted one after the other.

    A row of usage has 4 kB: a thousand traces of it do not fit into `MEMORY`, as DuckDB has to hold
    more of wide rows in memory than it can spill.
    """
    pending: list[File] = []
    for sharing in sharing_traces(group.files):
        if pending and sum(file.bytes for file in [*pending, *sharing]) > SORT_BYTES:
            yield pending
            pending = []
        pending += sharing
    yield pending


def _sort(
    files: CommitFiles, group: Group, first: int, last: int, spill: Path
) -> Iterator[pa.RecordBatch]:
    connection = duckdb.connect(
        config={"memory_limit": MEMORY, "temp_directory": str(spill), "threads": THREADS}
    )
    try:
        files.folder.register_with(connection)
        paths = [files.folder.sql_path(file.path) for file in group.files]
        names = ", ".join(views.quote(field.name) for field in group.table.arrow)
        inside = f"trace_id between {first} and {last}"
        query = (
            f"select {names} from {views.scan(group.table, paths)}"
            # The manifest notes rows without a trace as trace 0.
            f" where {inside if first else f'({inside} or trace_id is null)'}"
            f" order by {', '.join(_order(group.table))}"
        )
        rows = USAGE_ROWS if group.table in USAGE else BATCH
        for batch in connection.sql(query).to_arrow_reader(rows):
            yield columns.conformed(batch, group.table.arrow)
    except (duckdb.Error, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise StoreError(f"{group.table.name} of run {group.run_id}: {reason}") from error
    finally:
        connection.close()


def _order(table: Table) -> list[str]:
    """SQL expressions by which new files are sorted.

    Tables with a row per layer and token are sorted by bands of layers and then by traces. So a
    query for one layer of many traces, such as the tokens of an expert, reads adjacent rows; and
    reading one trace on all layers, as the trace page does, decodes few rows of other traces. Whole
    layers in row groups of 122,880 rows took four times as long for the latter.
    """
    size = table.row_group
    if size is None:
        return [views.quote(name) for name in table.key]
    band = size.rows // size.positions  # layers per row group
    return [f"layer // {band}", "trace_id", f"pos // {size.positions}", "layer", "pos"]


def _row_groups(batches: Iterator[pa.RecordBatch], table: Table) -> Iterator[pa.RecordBatch]:
    """Cut sorted batches into row groups; those of grids hold whole rectangles."""
    size = table.row_group
    limit = size.rows if size is not None else USAGE_ROWS if table in USAGE else ROWS
    pieces = batches if size is None else _rectangles(batches, size)
    pending: list[pa.RecordBatch] = []
    for piece in pieces:
        if pending and sum(map(len, pending)) + len(piece) > limit:
            yield _joined(pending)
            pending = []
        pending.append(piece)
    if pending:
        yield _joined(pending)


def _rectangles(batches: Iterator[pa.RecordBatch], size: Size) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one band of layers, trace and block of positions at a time."""
    # A rectangle may continue in the next batch, so it is yielded only once the key changes.
    pending: list[pa.RecordBatch] = []
    before: tuple[int, ...] | None = None
    for batch in batches:
        keys_3R = np.stack(
            [
                batch["layer"].to_numpy() // (size.rows // size.positions),
                batch["trace_id"].to_numpy(),
                batch["pos"].to_numpy() // size.positions,
            ]
        )
        first = [0, *(np.flatnonzero((keys_3R[:, 1:] != keys_3R[:, :-1]).any(axis=0)) + 1)]
        for start, stop in pairwise([*first, len(batch)]):
            key = tuple(keys_3R[:, start].tolist())
            if pending and key != before:
                yield _joined(pending)
                pending = []
            pending.append(batch.slice(start, stop - start))
            before = key
    if pending:
        yield _joined(pending)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
