"""Limits the size of an answer by rows, columns, cells and bytes.

A table can be small in bytes and huge once it is read: a list of 50 million nulls takes no bytes.
So values are counted too, including those inside lists, maps and structs, without expanding them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Extent:
    """Largest size that an answer may have.

    Attributes:
        rows: Number of rows.
        columns: Number of columns.
        cells: Number of values, including nested ones.
        bytes: Bytes in memory.
    """

    rows: int
    columns: int
    cells: int
    bytes: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Extent:
        """Take the extent from a larger set of settings."""
        return cls(*(int(settings[name]) for name in ("rows", "columns", "cells", "bytes")))


class TooLargeError(Exception):
    """A table exceeds an extent; the message says in which respect."""


def parts(array: pa.Array) -> Iterator[pa.Array]:
    """Yield an array and all arrays inside it, each cut to its parent's slice, without copies."""
    waiting = [array]
    while waiting:
        each = waiting.pop()
        yield each
        kind = each.type
        if pa.types.is_struct(kind):
            waiting.extend(each.field(i) for i in range(kind.num_fields))
        elif pa.types.is_map(kind):
            waiting.extend((_inside(each, each.keys), _inside(each, each.items)))
        elif pa.types.is_list(kind):
            waiting.append(_inside(each, each.values))
        elif pa.types.is_fixed_size_list(kind):
            size = kind.list_size
            waiting.append(each.values.slice(each.offset * size, len(each) * size))


def cells(table: pa.Table) -> int:
    """Count the values of a table, including those inside lists, maps and structs."""
    chunks = (chunk for column in table.columns for chunk in column.chunks)
    return sum(len(part) for chunk in chunks for part in parts(chunk))


def cut(table: pa.Table, extent: Extent) -> tuple[pa.Table, str | None]:
    """Keep the first rows that fit.

    Returns:
        These rows, and what the next row would exceed: "rows", "cells", "bytes" or None.

    Raises:
        TooLargeError: The first row alone does not fit.
    """
    why = "rows" if table.num_rows > extent.rows else None
    table = table.slice(0, extent.rows)
    full = _full(table, extent)
    if full is None:
        return table, why
    low, high = 0, table.num_rows  # bisect: `low` rows always fit, more than `high` never do
    while low < high:
        middle = (low + high + 1) // 2
        found = _full(table.slice(0, middle), extent)
        low, high = (middle, high) if found is None else (low, middle - 1)
    if low == 0:
        raise TooLargeError(_alone(table.slice(0, 1), extent))
    return table.slice(0, low), _full(table.slice(0, low + 1), extent)


def check(table: pa.Table, extent: Extent) -> None:
    """Check that a table fits.

    Raises:
        TooLargeError: The table does not fit.
    """
    if table.num_columns > extent.columns or table.num_rows > extent.rows:
        raise TooLargeError(
            f"{table.num_rows:,} rows of {table.num_columns:,} columns exceed the limit of "
            f"{extent.rows:,} rows of {extent.columns:,} columns"
        )
    if (full := _full(table, extent)) is not None:
        raise TooLargeError(f"more {full} than allowed")


def _full(table: pa.Table, extent: Extent) -> str | None:
    """Which limit a table exceeds: "bytes", "cells" or None."""
    if table.nbytes > extent.bytes:
        return "bytes"
    return "cells" if cells(table) > extent.cells else None


def _alone(row: pa.Table, extent: Extent) -> str:
    if row.nbytes > extent.bytes:
        return f"one row alone has more than {extent.bytes:,} bytes, the limit of an answer"
    return (
        f"one row alone has {cells(row):,} values, and an answer at most {extent.cells:,}: "
        f"select a part of its lists, for example list[1:100]"
    )


def _inside(array: pa.Array, child: pa.Array) -> pa.Array:
    """The part of a list's or map's child array that its own rows refer to."""
    offsets = array.offsets
    first, last = offsets[0].as_py(), offsets[len(array)].as_py()
    return child.slice(first, last - first)
