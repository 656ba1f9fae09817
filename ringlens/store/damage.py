"""From a failed query to a sentence: a damaged file, or a name that is not there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ringlens.errors import StoreError
from ringlens.store.manifest import File
from ringlens.store.schema import Table

_CHOICES = ("trace_id", "layer", "pos", "rank", "expert", "weight", "affinity", "bias_flip")


def explain(
    error: duckdb.Error,
    query: str,
    root: Path,
    files: Sequence[File],
    tables: Mapping[str, Table],
) -> StoreError:
    """The StoreError that says what a DuckDB error means here."""
    first = str(error).split("\n\n")[0].replace("\n", " ")
    columns = {name: tuple(table.arrow.names) for name, table in tables.items()}
    columns["router_choices"] = _CHOICES
    used = [name for name in columns if re.search(rf"\b{name}\b", query)]
    if isinstance(error, duckdb.CatalogException) and "Table with name" in first:
        return StoreError(f"{first.split('!')[0]}. The store has: {', '.join(sorted(columns))}")
    if isinstance(error, duckdb.BinderException) and used:
        known = "; ".join(f"{name}: {', '.join(columns[name])}" for name in used)
        return StoreError(f"{first}. Columns are: {known}")
    if isinstance(error, duckdb.ParserException | duckdb.BinderException):
        return StoreError(f"{first}. The query was: {query}")
    return StoreError(damaged(root, files) or first)


def damaged(root: Path, files: Sequence[File]) -> str | None:
    """A sentence about the first file that is missing, cut or has no readable footer."""
    for file in files:
        path = root / file.path
        fault = _fault(path, file)
        if fault:
            whose = (
                f"traces {file.first_trace} to {file.last_trace}" if file.last_trace else "its run"
            )
            return (
                f"{path} {fault}: restore it from a copy; it holds {file.table} of {whose}, all "
                f"other files can still be read"
            )
    return None


def _fault(path: Path, file: File) -> str | None:
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"is damaged ({size} bytes instead of {file.bytes})"
        pq.read_metadata(path)
    except FileNotFoundError:
        return "is missing"
    except (OSError, pa.ArrowException) as error:
        return f"is damaged ({str(error).splitlines()[0]})"
    return None
