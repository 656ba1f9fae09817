"""What a table of the store is: columns with their Arrow type, unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: name, Arrow type, what it means, whether it may be null, and its unit."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """One table of the store.

    Attributes:
        name: Folder in the store and name of the view in SQL.
        meaning: One sentence: what a row is.
        key: Columns that identify a row, in sort order.
        columns: All columns, in file order.
        scope: Where an analysis writes the rows: the columns that say whose rows take the place of
            whose. All rows of a scope are replaced together. Empty for what a capture records.
    """

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    scope: tuple[str, ...] = ()

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema of the table's files."""
        return pa.schema(pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns)


def list_of(item: pa.DataType) -> pa.DataType:
    """A list without nulls in it, as Parquet names its parts."""
    return pa.list_(pa.field("element", item, nullable=False))


FLOATS = list_of(pa.float32())

TRACE = Column("trace_id", pa.int64(), "trace, unique in the store")
RUN = Column("run_id", pa.string(), "run that wrote the row")
LAYER = Column("layer", pa.uint16(), "layer, 0 is the first")
POS = Column(
    "pos", pa.int32(), "token position in the trace, 0 is the first prompt token", unit="tokens"
)
