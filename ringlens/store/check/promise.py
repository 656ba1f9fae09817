"""Checks that tables which a run recorded are there and complete.

Rows that are missing inside a table show as gaps (`check_table`). If a whole table is gone and the
manifest does not list it, only the run's own row says that it existed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ringlens.store.check.finding import COPY, COUNT, DROP, GONE, LOST, NOTE_LOST, WRONG, Finding
from ringlens.store.check.rows import RunTraces, named
from ringlens.store.check.tiling import Ints
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.promise import Promise, rows_of, table_of
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

Files = Mapping[str, Sequence[File]]
"""Files of a run by table."""


def gone(table: str, listed: bool, run_id: str) -> Finding:
    """Make the finding that a run has lost a whole table.

    Args:
        table: The table.
        listed: Whether the manifest still lists files of it.
        run_id: The run.
    """
    sentence = f"run {run_id} recorded {table}, but has no row of it"
    return Finding(LOST, GONE, table, sentence, COPY if listed else NOTE_LOST, run_id)


def check_rollups(files: Files, promise: Promise, run_id: str) -> Iterator[Finding]:
    """Find rollups that are missing although the routing that they sum up is there."""
    for name in promise.rollups if files.get("routing") else ():
        if not files.get(name):
            sentence = f"run {run_id} has no row of {name}, which sums up its routing"
            yield Finding(WRONG, GONE, name, sentence, COUNT, run_id)


def check_chosen(
    folder: Folder, readable: Files, listed: set[str], promise: Promise, traces: RunTraces
) -> Iterator[Finding]:
    """Check the number of rows of chosen layers, heads and positions in traces that have ended.

    Args:
        folder: The store's folder.
        readable: Readable files.
        listed: Tables of which the manifest lists files.
        promise: What the run recorded.
        traces: The run's traces.
    """
    run_id = traces.run["run_id"]
    asked = {table_of(item) for item in promise.chosen}
    counts = {table: _counts(folder, readable.get(table, ())) for table in asked}
    lost: set[str] = set()
    for item in promise.chosen:
        table, point = table_of(item), getattr(item, "point", "")
        due_N = np.where(traces.ended, rows_of(item, traces.tokens), 0)
        if not due_N.any() or table in lost:
            continue
        if not counts[table]:
            lost.add(table)
            yield gone(table, table in listed, run_id)
            continue
        short = _short(counts[table], point, traces.ids, due_N)
        short -= promise.without.get(table, frozenset())
        if short:
            what = f"{table} at {point}" if point else table
            sentence = f"{what} lacks rows of {named(short)} of run {run_id}"
            yield Finding(LOST, "gap", table, sentence, DROP, run_id, tuple(sorted(short)))


def _counts(folder: Folder, files: Sequence[File]) -> Counter[tuple[str, int]]:
    """Count the rows of each point and trace."""
    found: Counter[tuple[str, int]] = Counter()
    for file in files:
        with parquet.reading(folder, file.path) as opened:
            names = [n for n in ("point", "trace_id") if n in opened.schema_arrow.names]
        rows = parquet.columns(folder, file.path, names)
        for row in rows.group_by(names).aggregate([([], "count_all")]).to_pylist():
            found[row.get("point", ""), row["trace_id"]] += row["count_all"]
    return found


def _short(counts: Counter[tuple[str, int]], point: str, ids: Ints, due_N: Ints) -> set[int]:
    return {
        trace_id
        for trace_id, due in zip(ids.tolist(), due_N.tolist(), strict=True)
        if counts[point, trace_id] < due
    }
