"""Explains failed queries: names a damaged file, or a table or column that does not exist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact, memory
from ringlens.store.schema import views_usage
from ringlens.store.storage.folder import Folder

Columns = Mapping[str, Sequence[str]]

# DuckDB gives failures of its Parquet reader no class of their own, so their text is matched too.
_READ_ERRORS = (duckdb.Error, duckdb.IOException, duckdb.SerializationException)
_READ_WORDS = re.compile("parquet|failed to read|decompress|magic bytes", re.IGNORECASE)

# A message of `intact.Guard`, as DuckDB wraps it.
_GUARDED = re.compile(r"executing the UDF: StoreError: (.*)")

_SOURCES = {name: sources for name, (_, sources) in views_usage.DERIVED.items()}


def explain(
    error: duckdb.Error, query: str, columns: Columns, folder: Folder, files: Sequence[File]
) -> StoreError:
    """Make the StoreError that explains an error of DuckDB.

    Args:
        error: Error that DuckDB raised.
        query: Query for which it was raised.
        columns: Columns of the store's tables and views.
        folder: The store's folder.
        files: The store's committed files.
    """
    if ours := _GUARDED.search(str(error)):
        return StoreError(ours[1])
    reason = str(error).split("\n\n")[0].replace("\n", " ")
    used = _named(query, columns)
    read = [file for file in files if file.path in query]
    read = read or [file for file in files if file.table in tables_named(query, columns)]
    # A table with a missing file has no view, so DuckDB reports it as unknown.
    if isinstance(error, duckdb.CatalogException) and "Table with name" in reason:
        wanted = reason.split("Table with name ")[1].split(" ")[0]
        message = damage(folder, read) if wanted in columns else None
        known = ", ".join(sorted(columns))
        return StoreError(message or f"there is no table {wanted}: the store has {known}")
    if isinstance(error, duckdb.BinderException) and used:
        known = "; ".join(f"{name}: {', '.join(columns[name])}" for name in used)
        return StoreError(f"{reason}. The columns are: {known}")
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError(
            f"the query needs more memory than it may take ({reason}): open the store with more, "
            f"as Store(path, memory='4GB') or {memory.VARIABLE}=4GB, or select less."
        )
    if type(error) in _READ_ERRORS or _READ_WORDS.search(reason):
        named = [file for file in read if file.path in reason]
        if message := damage(folder, named or read):
            return StoreError(message)
    return StoreError(f"{reason} (in the query: {' '.join(query.split())[:500]})")


def tables_named(query: str, columns: Columns) -> set[str]:
    """Tables whose files a query may read: any that it names, directly or through a view."""
    return {source for name in _named(query, columns) for source in _SOURCES.get(name, (name,))}


def _named(query: str, columns: Columns) -> list[str]:
    return [name for name in columns if re.search(rf"\b{name}\b", query, re.IGNORECASE)]


def damage(folder: Folder, files: Sequence[File]) -> str | None:
    """Describe the first file that is missing, truncated or unreadable; None if there is none.

    Sizes and footers are compared first, as that is fast; files are read in full only if those
    agree.
    """
    for fault in (_footer_fault, _page_fault):
        for file in files:
            if found := fault(folder, file):
                return intact.message(folder, file, found)
    return None


def _footer_fault(folder: Folder, file: File) -> str | None:
    if found := intact.size_fault(folder, file):
        return found
    try:
        rows = pq.read_metadata(folder.source(file.path)).num_rows
    except (OSError, pa.ArrowException) as error:
        return f"is damaged ({_line(error)})"
    return None if rows == file.rows else f"is damaged ({rows} rows instead of {file.rows})"


def _page_fault(folder: Folder, file: File) -> str | None:
    try:
        source = folder.source(file.path)
        with pq.ParquetFile(source, page_checksum_verification=True) as parquet:
            for _ in parquet.iter_batches():
                pass
    except (OSError, pa.ArrowException) as error:
        return f"is damaged ({_line(error)})"
    return None


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
