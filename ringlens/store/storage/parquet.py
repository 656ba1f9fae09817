"""Writes Arrow tables to Parquet files and flushes them to the disk; reads them back."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.errors import StoreError
from ringlens.store.schema.table import Table

if TYPE_CHECKING:
    from ringlens.store.storage.folder import Folder


CHECKSUM_BLOCK = 2**20
"""Bytes read at a time."""


def write(path: Path, table: Table, groups: Iterable[pa.RecordBatch]) -> int:
    """Write one Parquet file, one row group per batch, and flush it to the disk.

    The settings were measured on routing of Ring-1T's size: zstd level 1; floats split into byte
    streams, without a dictionary; positions as deltas; statistics only for the key, as no query
    searches by other columns.

    Returns:
        Number of rows written.

    Raises:
        OSError: The disk is full, read-only or broken. A partial file may remain.
    """
    rows = 0
    with pq.ParquetWriter(path, table.arrow, **_settings(table)) as writer:
        for batch in groups:
            writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
            rows += batch.num_rows
    flush(path)
    return rows


def read(folder: Folder, path: str, table: Table) -> pa.Table:
    """Read a file with today's columns; columns that an older writer did not have are null.

    Raises:
        StoreError: The file is missing or damaged.
    """
    found = columns(folder, path)
    arrays = [
        found[field.name] if field.name in found.column_names else pa.nulls(len(found), field.type)
        for field in table.arrow
    ]
    return pa.Table.from_arrays(arrays, schema=table.arrow)


def columns(folder: Folder, path: str, names: list[str] | None = None) -> pa.Table:
    """Read columns of a file, all of them by default.

    Raises:
        StoreError: The file is missing or damaged.
    """
    try:
        with pq.ParquetFile(folder.source(path)) as file:
            return file.read(names)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise StoreError(
            f"{folder}/{path} is missing or damaged ({str(error).splitlines()[0]}): restore a "
            f"copy of it; without it none of its traces can be continued"
        ) from error


@contextmanager
def reading(folder: Folder, path: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a file for reading one part at a time.

    Args:
        folder: The store's folder.
        path: Path of the file in the store.
        **options: Passed to ``pyarrow.parquet.ParquetFile``.

    Raises:
        StoreError: The file is missing or damaged, even if that shows only while it is read.
    """
    try:
        with pq.ParquetFile(folder.source(path), **options) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{folder}/{path} is missing or damaged ({str(error).splitlines()[0]}): restore a "
            f"copy of it"
        ) from error


def bounds(metadata: pq.FileMetaData, column: str) -> NDArray[np.int64]:
    """Read the smallest and largest value of a column of whole numbers, [row groups, 2].

    All numbers lie between those of a row group whose writer gave none.
    """
    leaves = (metadata.schema.column(i).path for i in range(metadata.num_columns))
    leaf = list(leaves).index(column)
    groups = range(metadata.num_row_groups)
    found = [metadata.row_group(group).column(leaf).statistics for group in groups]
    every = np.iinfo(np.int64)
    known = [(s.min, s.max) if s and s.has_min_max else (every.min, every.max) for s in found]
    return np.array(known, np.int64).reshape(-1, 2)


def checksum(source: Path | BinaryIO) -> str:
    """CRC-32 of a file's bytes, as ``crc32:`` and eight hex digits.

    It detects accidents, not attacks, and is the cheapest choice for a commit
    (benchmarks/bench_check.py).
    """
    value = 0
    with open(source, "rb") if isinstance(source, Path) else source as file:
        while block := file.read(CHECKSUM_BLOCK):
            value = zlib.crc32(block, value)
    return f"crc32:{value:08x}"


def flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settings(table: Table) -> dict[str, object]:
    encoding: dict[str, str] = {}
    dictionary: list[str] = []
    for field in table.arrow:
        listed = pa.types.is_list(field.type)
        path = f"{field.name}.list.element" if listed else field.name
        item = field.type.value_type if listed else field.type
        if pa.types.is_floating(item):
            encoding[path] = "BYTE_STREAM_SPLIT"
        elif field.name in ("pos", "start", "end"):
            encoding[path] = "DELTA_BINARY_PACKED"
        else:
            dictionary.append(path)
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionary,
        "column_encoding": encoding,
        "write_statistics": list(table.key),
        "write_page_checksum": True,
    }
