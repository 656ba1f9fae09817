"""Rows of an answer as what a grid, a CSV file or a chart takes."""

from __future__ import annotations

import io
import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

LONGEST = 2_000
"""Characters of a value that the grid is sent; downloads hold it whole."""
_EXACT = 2**53  # integers that JavaScript still tells apart


def columns(table: pa.Table) -> list[dict[str, Any]]:
    """Name, type, and whether it is a number, of each column."""
    return [
        {"name": field.name, "type": type_name(field.type), "number": is_number(field.type)}
        for field in table.schema
    ]


def rows(table: pa.Table) -> list[list[Any]]:
    """Rows as JSON holds them: numbers, booleans and null as they are, all else as text."""
    shown = [
        [cell(value, field.type) for value in column.to_pylist()]
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    return [list(row) for row in zip(*shown, strict=True)]


def cell(value: Any, kind: pa.DataType) -> Any:
    """One value as the grid shows it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT else str(value)
    if isinstance(value, float):
        return _float(value, 7 if pa.types.is_float32(kind) else 15)
    text = plain(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def plain(value: Any) -> str:
    """A value that is no number as text; nested ones as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list | dict | tuple):
        return json.dumps(_rounded(value), ensure_ascii=False, default=plain)
    return str(value)


def to_csv(table: pa.Table) -> bytes:
    """All rows as CSV, nested values as JSON."""
    flat = [
        pa.array([None if v is None else plain(v) for v in column.to_pylist()], pa.string())
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type)
        else column
        for field, column in zip(table.schema, table.columns, strict=True)
    ]
    out = io.BytesIO()
    csv.write_csv(pa.Table.from_arrays(flat, names=table.schema.names), out)
    return out.getvalue()


def to_parquet(table: pa.Table) -> bytes:
    """All rows as a Parquet file."""
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def is_number(kind: pa.DataType) -> bool:
    """Whether values of a type can be drawn on an axis."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def type_name(kind: pa.DataType) -> str:
    """A type in few letters: 'int64', 'text', 'list of float'."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return str(kind).split("<")[0].split("[")[0]


def _float(value: float, digits: int) -> float | str:
    if math.isfinite(value):
        return float(f"{value:.{digits}g}")
    return str(value)


def _rounded(value: Any) -> Any:
    """Numbers inside a nested value with the digits that a float32 has."""
    if isinstance(value, float | Decimal):
        return _float(float(value), 7)
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _rounded(each) for key, each in value.items()}
    return value
