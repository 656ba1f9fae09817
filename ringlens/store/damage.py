"""From a failed query to a sentence: a damaged file, or a name that is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ringlens.errors import StoreError
from ringlens.store import views_usage
from ringlens.store.folder import Folder
from ringlens.store.manifest import File

Columns = Mapping[str, Sequence[str]]

# DuckDB's own kinds of errors, and those of its Parquet reader, which have none.
_READ_ERRORS = (duckdb.Error, duckdb.IOException, duckdb.SerializationException)
_READ_WORDS = re.compile("parquet|failed to read|decompress|magic bytes", re.IGNORECASE)

_SOURCES = {name: sources for name, _, _, sources in views_usage.VIEWS}
_SOURCES |= {"router_choices": ("routing",)}


def explain(
    error: duckdb.Error, query: str, columns: Columns, folder: Folder, files: Sequence[File]
) -> StoreError:
    """The StoreError that says what an error of DuckDB means.

    Args:
        error: What DuckDB raised.
        query: The query that it raised it for.
        columns: Tables and views of the store, each with its columns.
        folder: The store.
        files: Its committed files.
    """
    reason = str(error).split("\n\n")[0].replace("\n", " ")
    used = [name for name in columns if re.search(rf"\b{name}\b", query)]
    sources = {source for name in used for source in _SOURCES.get(name, (name,))}
    read = [file for file in files if file.path in query]
    read = read or [file for file in files if file.table in sources]
    if isinstance(error, duckdb.CatalogException) and "Table with name" in reason:
        wanted = reason.split("Table with name ")[1].split(" ")[0]
        sentence = damage(folder, read) if wanted in columns else None
        known = ", ".join(sorted(columns))
        return StoreError(sentence or f"there is no table {wanted}: the store has {known}")
    if isinstance(error, duckdb.BinderException) and used:
        known = "; ".join(f"{name}: {', '.join(columns[name])}" for name in used)
        return StoreError(f"{reason}. The columns are: {known}")
    if type(error) in _READ_ERRORS or _READ_WORDS.search(reason):
        named = [file for file in read if file.path in reason]
        if sentence := damage(folder, named or read):
            return StoreError(sentence)
    return StoreError(f"{reason} (in the query: {' '.join(query.split())[:500]})")


def damage(folder: Folder, files: Sequence[File]) -> str | None:
    """A sentence about the first file that is missing, cut or unreadable; None if all are well.

    Sizes and footers are compared first, as that is fast; only if all agree is everything read.
    """
    for fault in (_footer_fault, _page_fault):
        for file in files:
            if found := fault(folder, file):
                return _sentence(f"{folder}/{file.path}", file, found)
    return None


def _sentence(path: str, file: File, fault: str) -> str:
    whose = f"traces {file.first_trace} to {file.last_trace}" if file.last_trace else "its run"
    return (
        f"{path} {fault}: put a copy of it back; it holds {file.table} of {whose}, what other "
        f"files hold can still be read"
    )


def _footer_fault(folder: Folder, file: File) -> str | None:
    try:
        size = folder.size(file.path)
        if size != file.bytes:
            return f"is damaged ({size} bytes instead of {file.bytes})"
        rows = pq.read_metadata(folder.source(file.path)).num_rows
    except FileNotFoundError:
        return "is missing"
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
