"""Reads all layers of neighbouring tokens of a trace.

A table with a row per layer and token lies layer by layer. A few tokens therefore come from many
row groups, which are decoded whole; for columns of lists Arrow takes less than half of DuckDB's
processor time (benchmarks/LOG.md, 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.encode.columns import conformed
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

FOOTERS = 16
"""Footers that are kept: of a file of 320 row groups one takes a megabyte, and 8 ms to read."""


def stretch(
    store: Store, table: Table, trace_id: int, span: tuple[int, int], columns: Sequence[str]
) -> pa.Table:
    """Read rows of a trace from one position to before another.

    Args:
        store: The store.
        table: A table with the columns ``trace_id`` and ``pos``.
        trace_id: The trace.
        span: First position, and the one after the last.
        columns: Names of columns; those that a file lacks are null.

    Returns:
        The rows in the order in which the files hold them.

    Raises:
        StoreError: A file is missing, damaged or not what was committed.
    """
    schema = pa.schema([table.arrow.field(name) for name in columns])
    files = store.files(table.name, trace_id, trace_id)
    store.require_files(files)
    parts = [_of_file(store, file, trace_id, span, schema) for file in files]
    return pa.concat_tables([schema.empty_table(), *parts])


def _of_file(
    store: Store, file: File, trace_id: int, span: tuple[int, int], schema: pa.Schema
) -> pa.Table:
    """Read a file's part of a stretch."""
    footer = store.once(_footers)(file.path)
    groups = footer.groups(trace_id, span)
    if not len(groups):
        return schema.empty_table()
    there = set(footer.metadata.schema.to_arrow_schema().names)
    names = sorted({"trace_id", "pos", *schema.names} & there)
    with parquet.reading(store.folder, file.path, metadata=footer.metadata) as found:
        rows = found.read_row_groups(groups.tolist(), names)
    trace_R, pos_R = rows["trace_id"].to_numpy(), rows["pos"].to_numpy()
    inside_R = (trace_R == trace_id) & (pos_R >= span[0]) & (pos_R < span[1])
    if not inside_R.all():
        rows = rows.filter(pa.array(inside_R))
    if rows.schema.equals(schema):
        return rows
    batches = [_whole(batch, schema) for batch in rows.combine_chunks().to_batches()]
    return pa.Table.from_batches(batches, schema)


def _whole(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Give rows the columns of a schema."""
    there = set(batch.schema.names)
    columns = [
        batch[field.name] if field.name in there else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return conformed(pa.RecordBatch.from_arrays(columns, schema.names), schema)


# --- footers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Footer:
    """What a file says of its row groups.

    Attributes:
        metadata: As Parquet holds it.
        bounds: Smallest and largest value of each row group, [groups, 2], by column.
    """

    metadata: pq.FileMetaData
    bounds: Mapping[str, NDArray[np.int64]]

    def groups(self, trace_id: int, span: tuple[int, int]) -> NDArray[np.int64]:
        """Row groups that may hold positions of a trace."""
        trace, pos = self.bounds["trace_id"], self.bounds["pos"]
        theirs = (trace[:, 0] <= trace_id) & (trace[:, 1] >= trace_id)
        return np.flatnonzero(theirs & (pos[:, 0] < span[1]) & (pos[:, 1] >= span[0]))


def _footers(store: Store) -> Callable[[str], _Footer]:
    """Make what reads the footers of a store's files, and keeps the last ones."""
    return lru_cache(FOOTERS)(partial(_footer, store.folder))


def _footer(folder: Folder, path: str) -> _Footer:
    with parquet.reading(folder, path) as opened:
        metadata = opened.metadata
    return _Footer(metadata, {name: _bounds(metadata, name) for name in ("trace_id", "pos")})


def _bounds(metadata: pq.FileMetaData, column: str) -> NDArray[np.int64]:
    """Read the bounds of a column's row groups; all numbers where a writer gave none."""
    leaf = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column)
    found = [
        metadata.row_group(group).column(leaf).statistics
        for group in range(metadata.num_row_groups)
    ]
    every = np.iinfo(np.int64)
    known = [(s.min, s.max) if s and s.has_min_max else (every.min, every.max) for s in found]
    return np.array(known, np.int64).reshape(-1, 2)
