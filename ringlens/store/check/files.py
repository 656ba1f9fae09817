"""Checks one committed file: its presence, content, schema and entry in the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ringlens.store.check.finding import (
    ANALYSE,
    COPY,
    COUNT,
    LOST,
    NOTE,
    NOTES_COPY,
    RUN_COPY,
    WRONG,
    Finding,
)
from ringlens.store.manifest.manifest import File
from ringlens.store.schema import analysis_tables, usage_tables
from ringlens.store.schema.annotation.table import ANNOTATIONS
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

BATCH = 122_880
"""Rows read at a time."""

ROLLUPS = {table.name for table in usage_tables.ALL}
"""Tables that can be rebuilt from others."""

RESULTS = {table.name for table in analysis_tables.TABLES}
"""Tables that analyses can write again."""

BESIDE = RESULTS | {ANNOTATIONS.name}
"""Tables that no trace depends on."""


@dataclass(frozen=True)
class Checked:
    """Result of checking a file.

    Attributes:
        file: The entry that the manifest should have, with rows, size, span and checksum as found.
        readable: Whether the rows can be read.
        findings: Everything that is wrong.
    """

    file: File
    readable: bool
    findings: tuple[Finding, ...]


def check_file(folder: Folder, file: File, table: Table | None) -> Checked:
    """Check a file against its entry in the manifest.

    A file with the right checksum is not decoded. If the checksum is missing (format 1) or wrong,
    every page is decoded and compared with its own checksum.

    Args:
        folder: The store's folder.
        file: Entry of the manifest.
        table: The file's table; None if a later ringlens added it and its columns are unknown.
    """
    try:
        size = folder.size(file.path)
    except FileNotFoundError:
        return Checked(file, False, (_lost(file, "missing", "is missing"),))
    try:
        found = replace(file, bytes=size, checksum=parquet.checksum(folder.source(file.path)))
        intact = found.checksum == file.checksum
        if not intact:
            read_pages(folder, file.path)
        with pq.ParquetFile(folder.source(file.path)) as opened:
            misfits = tuple(_misfits(file, opened.schema_arrow, table))
            found = spanned(replace(found, rows=opened.metadata.num_rows), opened)
    except (OSError, pa.ArrowException) as error:
        kind, what = _broken(file, size, error)
        return Checked(file, False, (_lost(file, kind, what),))
    if misfits:
        return Checked(found, False, misfits)
    if file.checksum is not None and not intact:
        if not file.checksum.startswith("crc32:"):
            # A later ringlens wrote another kind of checksum, which this version cannot compare.
            return Checked(replace(found, checksum=file.checksum), True, ())
        what = "can be read, but is not what was committed (its checksum differs)"
        return Checked(file, True, (_lost(file, "checksum", what),))
    return Checked(found, True, tuple(_misnoted(file, found)))


def read_pages(folder: Folder, path: str) -> None:
    """Decode a whole file in batches, and compare its pages with their checksums."""
    with pq.ParquetFile(folder.source(path), page_checksum_verification=True) as opened:
        for _ in opened.iter_batches(BATCH):
            pass


def _broken(file: File, size: int, error: Exception) -> tuple[str, str]:
    if size != file.bytes:
        return "size", f"has {size:,} bytes instead of {file.bytes:,} and cannot be read"
    line = str(error).splitlines()[0]
    kind = "page" if "checksum" in line.lower() or "page" in line.lower() else "content"
    return kind, f"cannot be read ({line})"


def spanned(file: File, opened: pq.ParquetFile) -> File:
    """Fill in the smallest and largest trace id of a file."""
    index = opened.schema_arrow.get_field_index("trace_id")
    if index < 0:
        return replace(file, first_trace=0, last_trace=0)
    ends = [_ends(opened.metadata.row_group(g).column(index)) for g in range(opened.num_row_groups)]
    if None in ends:  # written without statistics
        batches = opened.iter_batches(BATCH, columns=["trace_id"])
        ends = [tuple(pc.min_max(pc.fill_null(b.column(0), 0)).as_py().values()) for b in batches]
    low, high = zip(*ends, strict=True) if ends else ((0,), (0,))
    return replace(file, first_trace=min(low), last_trace=max(high))


def _ends(column: pq.ColumnChunkMetaData) -> tuple[int, int] | None:
    """Smallest and largest value of a column in a row group; None without usable statistics."""
    found = column.statistics
    if found is None or not found.has_min_max or found.null_count:
        return None
    return int(found.min), int(found.max)


def _misfits(file: File, found: pa.Schema, table: Table | None) -> Iterator[Finding]:
    """Find columns that do not fit; extra columns are fine, as a later version may have them."""
    for field in table.arrow if table is not None else ():
        index = found.get_field_index(field.name)
        if index < 0 and not field.nullable:
            yield _lost(file, "schema", f"has no column {field.name}")
        elif index >= 0 and not _fits(found.field(index).type, field.type):
            kind = found.field(index).type
            yield _lost(file, "schema", f"has {field.name} as {kind} instead of {field.type}")


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _fits(found.value_type, wanted.value_type)
    # Each run stores expert ids in the type that its model needs; the store's tables have the
    # widest type of all runs.
    ids = (pa.uint8(), pa.uint16())
    return found == wanted or (found in ids and wanted in ids)


def _misnoted(file: File, found: File) -> Iterator[Finding]:
    """Find entries of the manifest that an intact file contradicts."""
    if found.rows != file.rows:
        yield _wrong(file, "rows", f"has {found.rows:,} rows, the manifest says {file.rows:,}")
    if found.bytes != file.bytes:
        yield _wrong(file, "bytes", f"has {found.bytes:,} bytes, the manifest says {file.bytes:,}")
    if not file.first_trace <= found.first_trace <= found.last_trace <= file.last_trace:
        yield _wrong(
            file,
            "span",
            f"holds traces {found.first_trace} to {found.last_trace}, the manifest says "
            f"{file.first_trace} to {file.last_trace}, so readers miss some",
        )


def _lost(file: File, kind: str, what: str) -> Finding:
    sentence = f"{file.path} {what}; it holds {file.table} of {_whose(file)}"
    severity, advice = LOST, RUN_COPY if file.table in ("runs", "experts") else COPY
    if file.table in ROLLUPS:
        severity, advice = WRONG, COUNT
    elif file.table in RESULTS:
        advice = ANALYSE
    elif file.table == ANNOTATIONS.name:
        advice = NOTES_COPY
    return Finding(severity, kind, file.path, sentence, advice, file.run_id)


def _whose(file: File) -> str:
    if not file.last_trace:
        return "its run"
    if file.first_trace == file.last_trace:
        return f"trace {file.last_trace}"
    return f"traces {file.first_trace} to {file.last_trace}"


def _wrong(file: File, kind: str, what: str) -> Finding:
    return Finding(WRONG, kind, file.path, f"{file.path} {what}", NOTE, file.run_id)
