"""Reads the rows of some traces, layers and positions.

A table with a row per layer and token lies layer by layer. Some tokens of all layers therefore come
from many row groups, which are decoded whole; for columns of lists Arrow takes two thirds of
DuckDB's processor time, and what it decodes can be kept. For one layer of many tokens DuckDB takes
half of Arrow's, as it skips the rest of each row group (benchmarks/LOG.md, 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
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

Ranges = Mapping[str, tuple[int, int]]
"""Smallest and largest value, by column."""

FOOTERS = 16
"""Footers that are kept: of a file of 320 row groups one takes a megabyte, and 8 ms to read."""


def within(
    store: Store, table: Table, files: Sequence[File], ranges: Ranges, columns: Sequence[str]
) -> pa.Table:
    """Read rows whose values lie between two numbers, by column.

    Args:
        store: The store.
        table: The table that the files are of.
        files: Committed files of it.
        ranges: Smallest and largest value of columns of whole numbers, none of which is null.
        columns: Names of columns; those that a file lacks are null.

    Returns:
        The rows in the order in which the files hold them.

    Raises:
        StoreError: A file is missing, damaged or not what was committed.
    """
    schema = pa.schema([table.arrow.field(name) for name in columns])
    store.require_files(files)
    parts = [_of_file(store, file, ranges, schema) for file in files]
    return pa.concat_tables([schema.empty_table(), *parts])


def _of_file(store: Store, file: File, ranges: Ranges, schema: pa.Schema) -> pa.Table:
    """Read a file's rows."""
    footer = store.once(_footers)(file.path)
    groups = footer.groups(ranges)
    if not len(groups):
        return schema.empty_table()
    there = set(footer.metadata.schema.to_arrow_schema().names)
    names = sorted({*ranges, *schema.names} & there)
    with parquet.reading(store.folder, file.path, metadata=footer.metadata) as found:
        rows = found.read_row_groups(groups.tolist(), names)
    inside_R = np.full(len(rows), True)
    for name, (least, most) in ranges.items():
        values_R = rows[name].to_numpy()
        inside_R &= (values_R >= least) & (values_R <= most)
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
    """

    metadata: pq.FileMetaData

    @cached_property
    def _leaves(self) -> dict[str, int]:
        """Place of each column that is not nested."""
        schema = self.metadata.schema
        return {schema.column(i).path: i for i in range(self.metadata.num_columns)}

    @cached_property
    def _bounds(self) -> dict[str, NDArray[np.int64]]:
        """Smallest and largest value of row groups [groups, 2], by column that was asked for."""
        return {}

    def groups(self, ranges: Ranges) -> NDArray[np.int64]:
        """Find the row groups that may hold rows with values in some ranges."""
        may_hold = np.full(self.metadata.num_row_groups, True)
        for name, (least, most) in ranges.items():
            bounds = self._bounds.get(name)
            if bounds is None:
                bounds = self._bounds[name] = _bounds(self.metadata, self._leaves[name])
            may_hold &= (bounds[:, 0] <= most) & (bounds[:, 1] >= least)
        return np.flatnonzero(may_hold)


def _footers(store: Store) -> Callable[[str], _Footer]:
    """Make what reads the footers of a store's files, and keeps the last ones."""
    return lru_cache(FOOTERS)(partial(_footer, store.folder))


def _footer(folder: Folder, path: str) -> _Footer:
    with parquet.reading(folder, path) as opened:
        return _Footer(opened.metadata)


def _bounds(metadata: pq.FileMetaData, leaf: int) -> NDArray[np.int64]:
    """Read the bounds of a column's row groups; all numbers where a writer gave none."""
    groups = range(metadata.num_row_groups)
    found = [metadata.row_group(group).column(leaf).statistics for group in groups]
    every = np.iinfo(np.int64)
    known = [(s.min, s.max) if s and s.has_min_max else (every.min, every.max) for s in found]
    return np.array(known, np.int64).reshape(-1, 2)
