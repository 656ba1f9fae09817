"""Copies runs from one store to another, to merge stores or to export a part of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ringlens.store.commit.files import CommitFiles
from ringlens.store.commit.rewriter import Rewriter, RunChange
from ringlens.store.manifest.clock import now
from ringlens.store.manifest.manifest import File, Start
from ringlens.store.read import intact
from ringlens.store.read.store import Store
from ringlens.store.read.tables import foreign
from ringlens.store.schema import captured
from ringlens.store.schema.promise import Promise, lost_rows, table_of
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage.folder import Folder
from ringlens.store.write import stream

Ids = Mapping[int, int]
"""New trace ids by old trace ids."""


@dataclass(frozen=True)
class Copy:
    """Selects what to copy of a run.

    Attributes:
        run: The run's row of ``runs``.
        run_id: Id of the run in the new store.
        trace_ids: Traces to copy, ascending.
        tables: Names of the tables to copy, all if None; ``runs``, ``experts`` and ``traces`` are
            always copied.
    """

    run: Mapping[str, Any]
    run_id: str
    trace_ids: Sequence[int]
    tables: Collection[str] | None = None

    def takes(self, table: str) -> bool:
        """Whether a table is copied."""
        return self.tables is None or table in (*self.tables, "runs", "experts", "traces")

    def left_out(self, there: Mapping[str, Sequence[File]], ids: Ids) -> list[str]:
        """Tables that the run recorded but its copy lacks, in the notation of ``lost``.

        Args:
            there: The store's files by table.
            ids: New ids of the copied traces.
        """
        run_id, promise = self.run["run_id"], Promise.of(self.run)
        mine = {name for name, files in there.items() if any(f.run_id == run_id for f in files)}
        names = {*promise.tables, *promise.rollups, *map(table_of, promise.chosen)}
        gone = {name for name in names if name not in mine or not self.takes(name)}
        before = {note for note in self.run["lost"] or () if "/" not in note}
        rows = {lost_rows(t, ids[i]) for t, of in promise.without.items() for i in of if i in ids}
        return sorted({*before, *gone, *rows})


def copy_run(
    source: Store, target: Rewriter, copy: Copy, others: Ids, *, keep_ids: bool = False
) -> Ids:
    """Copy a run in one commit.

    Args:
        source: Store to copy from.
        target: Rewriter of the store to copy to.
        copy: What to copy.
        others: New ids of traces of other runs, for ``traces.source_trace_id``, which becomes null
            if the new id is unknown.
        keep_ids: Keep the trace ids; the target must not have any of them yet.

    Returns:
        New ids of the run's traces.

    Raises:
        StoreError: A file is missing or damaged, or the disk is full; nothing was copied.
    """
    old = np.asarray(copy.trace_ids, np.int64)
    ids: dict[int, int] = {}
    shape = RunShape.of_row(copy.run)
    there = source.snapshot()  # one state for all tables, in which running traces are equally long

    def work(files: CommitFiles) -> list[str]:
        new = old if keep_ids else files.commit.first_trace + np.arange(len(old))
        ids.update(zip(old.tolist(), new.tolist(), strict=True))
        left = copy.left_out(there, ids)
        known = {table.name: table for table in captured.tables(shape.experts)}
        for name in filter(copy.takes, there):
            mine = [f for f in there[name] if f.run_id == copy.run["run_id"]]
            table, both = known.get(name), {**others, **ids}
            _stage_table(source.folder, mine, files, table, copy.run_id, ids, both, left)
        return []

    ended = copy.run["finished"]
    finished = ended.isoformat() if ended is not None else now()
    change = RunChange(started=Start(shape.to_json(), ""), finished=finished)
    # With the old ids, reserve all ids up to the largest, so that no later trace gets one of them.
    traces = int(old.max(initial=0)) if keep_ids else len(old)
    target.replace(copy.run_id, work, change, traces)
    return ids


def _stage_table(
    folder: Folder,
    mine: Sequence[File],
    files: CommitFiles,
    known_table: Table | None,
    run_id: str,
    ids: Ids,
    known: Ids,
    left: Sequence[str],
) -> None:
    """Stage some files of a table; one that is not known here has the columns of each file."""
    for number, file in enumerate(mine):
        intact.require(folder, [file])
        table = known_table or foreign.as_stored(folder, file)
        rows = stream.row_groups(folder, file, table)
        new = (_noted(_renamed(batch, table, run_id, ids, known), left) for batch in rows)
        stream.stage(files, table, new, f"-{number:06d}")


def _renamed(
    batch: pa.RecordBatch, table: Table, run_id: str, ids: Ids, known: Ids
) -> pa.RecordBatch:
    """Rows of the copied traces, with their new ids."""
    names = table.arrow.names
    columns = dict(zip(names, batch.columns, strict=True))
    if "trace_id" in names:
        new_ids = _mapped(columns["trace_id"], ids)
        # A row without a trace is about the whole run, and is copied with it.
        copied = np.asarray(new_ids.is_valid()) | np.asarray(columns["trace_id"].is_null())
        columns = {name: array.filter(pa.array(copied)) for name, array in columns.items()}
        columns["trace_id"] = new_ids.filter(pa.array(copied))
    rows = len(next(iter(columns.values())))
    if "run_id" in names:
        columns["run_id"] = pa.repeat(run_id, rows)
    if "source_trace_id" in names:
        columns["source_trace_id"] = _mapped(columns["source_trace_id"], known)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=table.arrow)


def _noted(batch: pa.RecordBatch, left: Sequence[str]) -> pa.RecordBatch:
    """Note in a row of ``runs`` what the copy lacks; leave other tables unchanged."""
    index = batch.schema.get_field_index("lost")
    if index < 0:
        return batch
    field = batch.schema.field(index)
    return batch.set_column(index, field, pa.array([list(left) or None] * len(batch), field.type))


def _mapped(column: pa.Array, ids: Ids) -> pa.Array:
    """New id of each id; null if it has none."""
    old = pa.array(list(ids.keys()), pa.int64())
    new = pa.array(list(ids.values()), pa.int64())
    return new.take(pc.index_in(column, old))


def run_rows(store: Store) -> list[dict[str, Any]]:
    """Rows of ``runs``, oldest first."""
    return store.runs().to_arrow_table().to_pylist()


def trace_ids_of(store: Store, run_id: str) -> list[int]:
    """Ids of a run's traces, ascending."""
    query = "select trace_id from traces where run_id = ? order by trace_id"
    return [trace_id for (trace_id,) in store.sql(query, [run_id]).fetchall()]
