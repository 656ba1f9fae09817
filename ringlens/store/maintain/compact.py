"""Compaction: many small files of a run become few large ones, in an order that reads well.

Only files whose traces have all ended are touched. Each group of them is one commit, so a store can
be read and written meanwhile, and a compaction that was stopped goes on with the rest.
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
from ringlens.store.encode import columns, expert_usage
from ringlens.store.maintain import stream
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.read.store import Store
from ringlens.store.schema import views
from ringlens.store.schema.captured import RUNNING
from ringlens.store.schema.table import Size, Table
from ringlens.store.schema.usage_tables import TABLES as USAGE
from ringlens.store.write.commit import CommitFiles
from ringlens.store.write.rewriter import Rewriter

TARGET = 400 * 2**20
"""Bytes of a compacted file, about."""

MANY, SMALL = 200, 8 * 2**20
"""A run that ends with more than so many files below so many bytes in a table is compacted."""

MEMORY = "1GB"
"""What sorting may hold; the rest is on the disk meanwhile, in the staging folder."""

PIECE = 16 * 2**20
"""Bytes of the files that are sorted at a time, where these can be told apart by their traces."""

THREADS = 2

FIXED = ("runs", "experts")
"""Tables with one file a run."""

ROWS = 20_000
"""Rows of a row group in other tables."""

USAGE_ROWS = 1_024
"""The same in tables of usage, where a row is 4 kB: a trace has 228 of Ring-1T's."""

BATCH = 16_384
"""Rows that leave the sort at a time."""


@dataclass(frozen=True)
class Group:
    """Files of one table that are made new together.

    Attributes:
        table: The table.
        run_id: Their run.
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
    """What there is to compact: two or more small files of a table and run are put together.

    Args:
        store: The store.
        target: Bytes of a new file, about. What a group of files holds of a trace goes to one new
            file, also where that is more.
        small: Bytes below which a file is small; half of ``target`` if None.
        run_id: The run to look at; all if None.
        running: Look at unfinished runs as well; their running traces are left alone.
    """
    small = target // 2 if small is None else small
    rows = store.sql("select run_id, finished is not null from runs").fetchall()
    runs = {run for run, finished in rows if (finished or running) and run_id in (None, run)}
    lengths = dict(
        store.sql("select trace_id, n_prompt + n_think + n_answer from traces").fetchall()
    )
    going_on = store.sql("select trace_id from traces where finish_reason = ?", [RUNNING])
    busy = sorted(trace_id for (trace_id,) in going_on.fetchall())
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
    """Make the files of each group new: one commit a group.

    Where another writer replaced a file of a group meanwhile, that group is left as it is.

    Args:
        rewriter: Of the store.
        groups: As `plan` made them.
        on_progress: Told how many bytes are done, of how many.

    Raises:
        StoreError: A file is missing or damaged, or the disk full. What is committed stays.
    """
    done, total = 0, sum(file.bytes for group in groups for file in group.files)
    for group in groups:

        def work(files: CommitFiles, group: Group = group) -> list[str]:
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
    """Compact a run that has just ended, if a table of it has more than `MANY` small files.

    Files of `SMALL` and more are left, so that this takes seconds and not as long as the run.
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
    """Small files of a run, put together until they are about ``target``."""
    pending: list[File] = []
    for knot in _knots(files):
        pending += knot
        if sum(file.bytes for file in pending) >= target:
            yield _group(table, run_id, pending, lengths, target)
            pending = []
    if len(pending) > 1:
        yield _group(table, run_id, pending, lengths, target)


def _knots(files: Sequence[File]) -> Iterator[list[File]]:
    """Files in order of their traces, those that can share a trace together."""
    knot: list[File] = []
    for file in sorted(files, key=lambda f: (f.first_trace, f.last_trace, f.path)):
        if knot and file.first_trace > max(f.last_trace for f in knot):
            yield knot
            knot = []
        knot.append(file)
    if knot:
        yield knot


def _group(
    table: Table, run_id: str, files: list[File], lengths: dict[int, int], target: int
) -> Group:
    """Cut the traces of some files into files of about ``target``, by the traces' lengths."""
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
    """Sort a group's rows and stage its new files."""
    intact.require(files.folder, group.files)  # or a flipped bit gets a checksum that is right
    spill = files.folder.staging / f"{files.commit.writer}-{files.commit.commit_id:08d}.spill"
    try:
        for number, (first, last) in enumerate(group.cuts):
            batches = _sorted(files, group, first, last, spill)
            if group.table in USAGE:
                batches = expert_usage.summed(group.table, group.run_id, batches)
            stream.stage(files, group.table, _row_groups(batches, group.table), f"-{number:04d}")
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    found, expected = (sum(f.rows for f in each) for each in (files.files.values(), group.files))
    if found != expected and group.table not in USAGE:
        raise StoreError(
            f"{group.table.name} of run {group.run_id} has {found} rows in files that should hold "
            f"{expected}: `ringlens check` finds what is wrong"
        )


def _sorted(
    files: CommitFiles, group: Group, first: int, last: int, spill: Path
) -> Iterator[pa.RecordBatch]:
    """The rows of some traces in the order of the new files."""
    for pieces in _pieces(group) if _order(group.table)[0] == '"trace_id"' else [group.files]:
        yield from _sort(files, replace(group, files=tuple(pieces)), first, last, spill)


def _pieces(group: Group) -> Iterator[list[File]]:
    """Files that can be sorted by themselves, one after the other, as they share no trace.

    A row of usage is 4 kB: a thousand traces of it do not fit into `MEMORY`, where DuckDB must hold
    more of wide rows than it can put on the disk.
    """
    pending: list[File] = []
    for knot in _knots(group.files):
        if pending and sum(file.bytes for file in [*pending, *knot]) > PIECE:
            yield pending
            pending = []
        pending += knot
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
    """The order of new files, in SQL.

    Tables with a row for each layer and token are sorted by bands of layers and then by traces. So
    the tokens of an expert, a question about one layer of many traces, lie side by side; and one
    trace on all layers, which is what the trace page asks for, does not drag much of its
    neighbours along. Whole layers in row groups of 122,880 rows took four times as long for the
    latter.
    """
    size = table.row_group
    if size is None:
        return [views.quote(name) for name in table.key]
    band = size.rows // size.positions
    return [f"layer // {band}", "trace_id", f"pos // {size.positions}", "layer", "pos"]


def _row_groups(batches: Iterator[pa.RecordBatch], table: Table) -> Iterator[pa.RecordBatch]:
    """Sorted batches as row groups: as many whole rectangles in each as fit, or so many rows."""
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
    """The rows of one band of layers, trace and block of positions at a time."""
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
