"""Reads the rows of some traces, layers and positions.

A table with a row per layer and token lies layer by layer. Some tokens of all layers therefore come
from many row groups, which are decoded whole; for columns of lists Arrow takes two thirds of
DuckDB's processor time, and what it decodes can be kept. For one layer of many tokens DuckDB takes
half of Arrow's, as it skips the rest of each row group (benchmarks/LOG.md, 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.encode.columns import completed
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

Ranges = Mapping[str, tuple[int, int]]
"""Smallest and largest value, by column."""

_Footer = tuple[pq.FileMetaData, Callable[[str], NDArray[np.int64]]]
"""A file's metadata, and the bounds of its row groups by column."""

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
    metadata, bounds = store.once(_footers)(file.path)
    may_hold = np.full(metadata.num_row_groups, True)
    for name, (least, most) in ranges.items():
        may_hold &= (bounds(name)[:, 0] <= most) & (bounds(name)[:, 1] >= least)
    groups = np.flatnonzero(may_hold)
    if not len(groups):
        return schema.empty_table()
    names = sorted({*ranges, *schema.names} & set(metadata.schema.to_arrow_schema().names))
    with parquet.reading(store.folder, file.path, metadata=metadata) as found:
        rows = found.read_row_groups(groups.tolist(), names)
    inside_R = np.full(len(rows), True)
    for name, (least, most) in ranges.items():
        values_R = rows[name].to_numpy()
        inside_R &= (values_R >= least) & (values_R <= most)
    if not inside_R.all():
        rows = rows.filter(pa.array(inside_R))
    batches = [completed(batch, schema) for batch in rows.combine_chunks().to_batches()]
    return pa.Table.from_batches(batches, schema)


def _footers(store: Store) -> Callable[[str], _Footer]:
    """Make what reads the footers of a store's files, and keeps the last ones."""
    return lru_cache(FOOTERS)(partial(_footer, store.folder))


def _footer(folder: Folder, path: str) -> _Footer:
    with parquet.reading(folder, path) as opened:
        metadata = opened.metadata
    return metadata, cache(partial(parquet.bounds, metadata))
