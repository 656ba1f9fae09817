"""The part of a query's rows that is sent: the first that fit, as Arrow values and as text.

It is made in the confined process, so that the receiver formats only numbers and short texts, and
cannot be made to expand anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ringlens.store.read import extent, values
from ringlens.store.read.extent import Extent

KIND = b"duckdb"
"""Metadata of a field: the name of its type in DuckDB."""
LEAVES = b"leaves"
"""Metadata of a field: the names of all types in it without parts."""


@dataclass(frozen=True)
class Selection:
    """The columns to ask DuckDB for: as Arrow holds them, then as text where that differs.

    Attributes:
        sql: SQL of a projection.
        kinds: DuckDB's types of the columns.
        shown: Indices of the columns that are also asked for as text, in order.
    """

    sql: str
    kinds: Sequence[Any]
    shown: Sequence[int]

    @classmethod
    def of(cls, relation: Any) -> Selection:
        """The selection for a relation.

        Raises:
            StoreError: A type is nested too deeply.
        """
        kinds = relation.types
        native = values.expressions(kinds, values.native)
        text = values.expressions(kinds, values.textual)
        shown = [i for i in range(len(kinds)) if native[i] != text[i]]
        named = [
            f"{sql} as {values.quoted(name)}"
            for sql, name in zip(native, values.names(relation), strict=True)
        ]
        return cls(", ".join([*named, *(text[i] for i in shown)]), kinds, shown)


@dataclass(frozen=True)
class Excerpt:
    """The rows that are sent.

    Attributes:
        table: Columns as Arrow holds them, then those of ``shown`` as text.
        shown: Indices of the columns that also come as text.
        cut: The limit that cut rows off: "rows", "cells" or "bytes"; None if all are there.
    """

    table: pa.Table
    shown: Sequence[int]
    cut: str | None


def excerpt(table: pa.Table, selection: Selection, limits: Extent) -> Excerpt:
    """The part of a selection's rows that is sent.

    Raises:
        TooLargeError: The first row alone does not fit.
    """
    kept, why = extent.cut(table, limits)
    count = len(selection.kinds)
    columns = list(kept.columns[:count])
    texts = _texts(kept, selection)
    for i in list(texts):
        if not values.is_sound(columns[i]):
            columns[i] = texts.pop(i)
    fields = [
        pa.field(kept.schema.names[i], column.type, metadata=_metadata(kind))
        for i, (column, kind) in enumerate(zip(columns, selection.kinds, strict=True))
    ]
    fields += [pa.field(str(i), pa.string()) for i in texts]
    whole = pa.Table.from_arrays([*columns, *texts.values()], schema=pa.schema(fields))
    # Once more with the texts, as the text of a value may be longer than the value.
    sent, more = extent.cut(whole, limits)
    return Excerpt(sent.combine_chunks(), list(texts), more or why)


def _texts(table: pa.Table, selection: Selection) -> dict[int, pa.ChunkedArray]:
    """The text of each column that people read otherwise than Arrow holds it, by index."""
    asked = zip(selection.shown, table.columns[len(selection.kinds) :], strict=True)
    found = dict(asked)
    for i, kind in enumerate(selection.kinds):
        if values.is_nested(kind):
            column = found.get(i, table.column(i))
            found[i] = pa.chunked_array([values.json_column(column, kind)])
    return dict(sorted(found.items()))


def _metadata(kind: Any) -> dict[bytes, bytes]:
    leaves = ",".join(sorted(values.leaves(kind)))
    return {KIND: str(kind.id).encode(), LEAVES: leaves.encode()}
