"""Converts rows of an answer to what a grid, a CSV file or a chart takes.

The sandbox has made numbers and texts of them already (`Answer.readable`), so nothing here can
expand: a cell costs a cell.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from ringlens.errors import RinglensError
from ringlens.sandbox.excerpt import KIND, LEAVES
from ringlens.sandbox.sandbox import Answer
from ringlens.store.read import values

LONGEST = 2_000
"""Characters of a value that the grid is sent; downloads hold it whole."""
AT_ONCE = 20_000
"""Cells that are made into JSON at a time; other requests are served in between."""

_WHOLE = {"hugeint", "uhugeint", "bignum"}
_MOMENTS = {"date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp with time zone"}

# What pandas, as DuckDB fills it, has no type for, or only one that holds other values.
_NOT_IN_PANDAS = {
    "uhugeint", "bignum", "time with time zone", "time_ns", "timestamp_ns", "timestamptz_ns",
    "interval", "bit", "variant", "geometry", "type", "union",
}  # fmt: skip


def columns(answer: Answer) -> list[dict[str, Any]]:
    """Describe each column: name, type, and whether it is a number."""
    return [
        {"name": field.name, "type": type_name(field), "number": is_number(field)}
        for field in answer.table.schema
    ]


def rows(readable: pa.Table) -> Iterator[list[list[Any]]]:
    """Yield rows as JSON holds them, some at a time."""
    size = max(1, AT_ONCE // max(1, readable.num_columns))
    for start in range(0, readable.num_rows, size):
        shown = [
            [cell(value, field) for value in column.to_pylist()]
            for field, column in _columns(readable.slice(start, size))
        ]
        yield [list(row) for row in zip(*shown, strict=True)]


def cell(value: Any, field: pa.Field) -> Any:
    """Convert one value for the grid: to a number that JSON holds exactly, a boolean or text."""
    if isinstance(value, float):
        return values.single(value) if pa.types.is_float32(field.type) else values.finite(value)
    if isinstance(value, str):
        if _kind(field) in _WHOLE:
            return values.integer(value)
        return value if len(value) <= LONGEST else _cut(value)
    return value if value is None or isinstance(value, bool) else values.integer(value)


def to_csv(answer: Answer) -> bytes:
    """Write all rows as CSV, nested values as JSON."""
    out = io.BytesIO()
    csv.write_csv(answer.readable, out)
    return out.getvalue()


def to_parquet(answer: Answer) -> bytes:
    """Write all rows as a Parquet file.

    Raises:
        RinglensError: Parquet has no type for a column.
    """
    out = io.BytesIO()
    try:
        parquet.write_table(answer.table.replace_schema_metadata(), out)
    except pa.ArrowException as error:
        raise RinglensError(
            f"Parquet cannot hold this answer ({error}): cast the column to text in the query"
        ) from error
    return out.getvalue()


def drawable(answer: Answer) -> pa.Table:
    """Convert columns for a chart: numbers, however long, to floats, all else to text."""
    found = {}
    for (field, column), text in zip(_columns(answer.table), answer.readable.columns, strict=True):
        if not is_number(field):
            found[field.name] = text
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            found[field.name] = column
        else:
            found[field.name] = text.cast(pa.float64())
    return pa.table(found)


def frame(answer: Answer) -> str:
    """Name the method that gives pandas the same values: ``df()``, or ``exact().df()``."""
    for field, text in _columns(answer.readable):
        leaves = set((field.metadata or {}).get(LEAVES, b"").decode(errors="replace").split(","))
        narrow = leaves & (_MOMENTS | _WHOLE | {"decimal"})
        if leaves & _NOT_IN_PANDAS or (narrow and not _is_narrow(text, _kind(field))):
            return "exact().df()"
    return "df()"


def is_number(field: pa.Field) -> bool:
    """Return whether values of a column can be drawn on an axis."""
    kind = field.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return number or _kind(field) in _WHOLE


def type_name(field: pa.Field) -> str:
    """Name the type of a column in few letters: 'int64', 'text', 'list of float', 'interval'."""
    kind = _kind(field)
    by_text = pa.types.is_string(field.type) or pa.types.is_decimal(field.type)
    if by_text and kind not in ("", "varchar"):
        return kind
    return _arrow_name(field.type)


def _arrow_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {_arrow_name(kind.value_type)}"
    if pa.types.is_string(kind):
        return "text"
    return str(kind).split("<")[0].split("[")[0]


def _columns(table: pa.Table) -> Iterator[tuple[pa.Field, pa.ChunkedArray]]:
    return zip(table.schema, table.columns, strict=True)


def _kind(field: pa.Field) -> str:
    """Read the DuckDB name of a column's type; it comes from the sandbox and may be anything."""
    return (field.metadata or {}).get(KIND, b"").decode(errors="replace")[:40]


def _is_narrow(text: pa.ChunkedArray, kind: str) -> bool:
    """Return whether all numbers have few digits, or all dates lie in the years 1 to 9999."""
    if kind in _MOMENTS:
        return pc.all(pc.match_substring_regex(text, r"^\d{4}-[^(]*$")).as_py() is not False
    if kind in _WHOLE | {"decimal"}:
        return (pc.max(pc.utf8_length(text)).as_py() or 0) <= 15
    return False


def _cut(value: str) -> str:
    return f"{value[:LONGEST]}… ({len(value):,} characters)"
