"""Runs copied from one store to another: to merge stores, and to export a part of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ringlens.errors import StoreError
from ringlens.store import schema, stream
from ringlens.store.clock import now
from ringlens.store.commit import CommitFiles
from ringlens.store.folder import Folder
from ringlens.store.manifest import File, Start
from ringlens.store.rewriter import Ends, Rewriter
from ringlens.store.shape import RunShape
from ringlens.store.store import Store
from ringlens.store.table import Table

Ids = Mapping[int, int]
"""New trace ids by old ones."""


@dataclass(frozen=True)
class Copy:
    """What to copy of a run.

    Attributes:
        run: Its row of ``runs``.
        run_id: Its id in the new store.
        trace_ids: Its traces that are copied, ascending.
        tables: Names of the tables that are copied; all if None. ``runs``, ``experts`` and
            ``traces`` always are.
    """

    run: Mapping[str, Any]
    run_id: str
    trace_ids: Sequence[int]
    tables: Collection[str] | None = None


def copy_run(
    source: Store, target: Rewriter, copy: Copy, others: Ids, *, keep_ids: bool = False
) -> Ids:
    """Copy a run in one commit.

    Args:
        source: Where it is.
        target: Where it goes.
        copy: What of it.
        others: New ids of traces of other runs, for ``traces.source_trace_id``; where the new id of
            such a trace is not known, it becomes null.
        keep_ids: Keep the trace ids, as is possible in a store that has none of them.

    Returns:
        New ids of the run's traces.

    Raises:
        StoreError: A file is missing or damaged, or the disk full; nothing was copied.
    """
    old = np.asarray(copy.trace_ids, np.int64)
    ids: dict[int, int] = {}
    shape = _shape(copy.run)
    there = source.snapshot()  # at one moment: traces that go on are as long in every table

    def work(files: CommitFiles) -> list[str]:
        new = old if keep_ids else files.commit.first_trace + np.arange(len(old))
        ids.update(zip(old.tolist(), new.tolist(), strict=True))
        for table in schema.tables(shape.experts):
            mine = [f for f in there.get(table.name, ()) if f.run_id == copy.run["run_id"]]
            if copy.tables is None or table.name in (*copy.tables, "runs", "experts", "traces"):
                _stage_table(source.folder, mine, files, table, copy.run_id, ids, {**others, **ids})
        return []

    ended = copy.run["finished"]
    finished = ended.isoformat() if ended is not None else now()
    ends = Ends(started=Start(shape.to_json(), ""), finished=finished)
    traces = int(old.max(initial=0)) if keep_ids else len(old)
    target.replace(copy.run_id, work, ends, traces)
    return ids


def _stage_table(
    folder: Folder,
    mine: Sequence[File],
    files: CommitFiles,
    table: Table,
    run_id: str,
    ids: Ids,
    known: Ids,
) -> None:
    for number, file in enumerate(mine):
        rows = stream.row_groups(folder, file, table)
        new = (_renamed(batch, table, run_id, ids, known) for batch in rows)
        stream.stage(files, table, new, f"-{number:06d}")


def _renamed(
    batch: pa.RecordBatch, table: Table, run_id: str, ids: Ids, known: Ids
) -> pa.RecordBatch:
    """The rows of the copied traces under their new ids."""
    names = table.arrow.names
    columns = dict(zip(names, batch.columns, strict=True))
    if "trace_id" in names:
        theirs = _mapped(columns["trace_id"], ids)
        inside = np.asarray(theirs.is_valid()) | np.asarray(columns["trace_id"].is_null())
        columns = {name: array.filter(pa.array(inside)) for name, array in columns.items()}
        columns["trace_id"] = theirs.filter(pa.array(inside))
    rows = len(next(iter(columns.values())))
    if "run_id" in names:
        columns["run_id"] = pa.repeat(run_id, rows)
    if "source_trace_id" in names:
        columns["source_trace_id"] = _mapped(columns["source_trace_id"], known)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=table.arrow)


def _mapped(column: pa.Array, ids: Ids) -> pa.Array:
    """Each id's new one; null where there is none."""
    old = pa.array(list(ids.keys()), pa.int64())
    new = pa.array(list(ids.values()), pa.int64())
    return new.take(pc.index_in(column, old))


def _shape(run: Mapping[str, Any]) -> RunShape:
    return RunShape(
        layers=run["layers"],
        sparse_layers=tuple(run["sparse_layers"]),
        experts=run["experts"],
        experts_per_token=run["experts_per_token"],
        heads=run["heads"],
    )


def run_rows(store: Store) -> list[dict[str, Any]]:
    """The rows of ``runs``, oldest first."""
    return store.runs().to_arrow_table().to_pylist()


def trace_ids_of(store: Store, run_id: str) -> list[int]:
    """Ids of a run's traces, ascending."""
    query = "select trace_id from traces where run_id = ? order by trace_id"
    return [trace_id for (trace_id,) in store.sql(query, [run_id]).fetchall()]


def merge(source: Store, target: Rewriter) -> list[str]:
    """Copy the runs of a store that another does not have yet; each run is one commit.

    Traces get new ids, ``source_trace_id`` follows them. A run keeps its id unless another run of
    the target has the same. A merge that was stopped goes on with the runs that are missing.

    Args:
        source: Where the runs come from.
        target: Where they go.

    Returns:
        A sentence about each run of the source.

    Raises:
        StoreError: Both are the same store, or a run could not be copied; those before it are.
    """
    if source.folder.address == target.folder.address:
        raise StoreError(f"{source.folder} cannot be merged into itself: give another store")
    ids: dict[int, int] = {}
    said = []
    with Store(target.folder.address) as there:
        known = {run["run_id"]: run for run in run_rows(there)}
        for run in run_rows(source):
            name, old = run["run_id"], trace_ids_of(source, run["run_id"])
            twin = _twin(run, known)
            if twin is not None:
                new = trace_ids_of(there, twin)
                ids |= dict(zip(old, new, strict=False)) if len(old) == len(new) else {}
                said.append(f"{name}: already there, skipped")
            elif run["finished"] is None:
                said.append(f"{name}: has not ended, skipped: let its capture end, then merge it")
            else:
                run_id = _free(name, known)
                ids |= copy_run(source, target, Copy(run, run_id, old), ids)
                known[run_id] = run
                said.append(f"{name}: {len(old)} traces" + (f", as {run_id}" * (run_id != name)))
    return said


def _twin(run: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The same run in another store, whatever it is called there."""

    def facts(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != "run_id"}

    for run_id, other in known.items():
        if run_id.startswith(run["run_id"]) and facts(other) == facts(run):
            return run_id
    return None


def _free(run_id: str, known: Collection[str]) -> str:
    """The id, or where another run has it, the id with a number."""
    number, free = 2, run_id
    while free in known:
        free, number = f"{run_id}-{number}", number + 1
    return free
