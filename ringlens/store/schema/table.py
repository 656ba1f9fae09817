"""Table and Column: describe the store's tables with Arrow types, units and meanings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Name.
        type: Arrow type.
        meaning: Meaning of the values.
        nullable: Whether values may be null.
        unit: Unit of the values.
        shape: Letters of a row's value: "" for one number, "H" for one per head, "E" per expert,
            "k" per chosen expert. Set if arrays of records are checked against it.
        label: Short name for pages; "" if no page shows the column by itself.
        infinite: The infinity that is a valid value; None if none is.
        expert_ids: Whether the column holds expert ids, which are stored in the smallest type that
            fits the model.
    """

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    unit: str = ""
    shape: str = ""
    label: str = ""
    infinite: float | None = None
    expert_ids: bool = False


class Size(NamedTuple):
    """Largest size of a row group, which is a rectangle of layers and positions."""

    rows: int
    positions: int


@dataclass(frozen=True)
class Tiles:
    """Declares that the rows of a table cover every token of a trace.

    Attributes:
        layers: Layers that are covered: "all", "sparse", or "none" for a table without layers.
        length: Column with the number of positions that a row covers; "" if it is always one.
        imported: Whether imported runs are covered too; servers leave out some tokens.
    """

    layers: str
    length: str = ""
    imported: bool = True


@dataclass(frozen=True)
class Table:
    """One table of the store.

    Attributes:
        name: Folder in the store and name of the view in SQL.
        meaning: One sentence that says what a row is.
        key: Columns that identify a row, in sort order.
        columns: All columns, in file order.
        scope: Columns of the scopes of an analysis: all rows with equal values are replaced
            together. Empty for tables that a capture writes.
        tiles: Tokens and layers that have rows; None if only chosen ones do.
        row_group: Largest size of a row group, for a table with a row per layer and token.
        encoder: Name of the encoder of its rows in `ringlens.store.encode.encoders`.
    """

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    scope: tuple[str, ...] = ()
    tiles: Tiles | None = None
    row_group: Size | None = None
    encoder: str = ""

    @cached_property
    def arrow(self) -> pa.Schema:
        """Arrow schema of the table's files."""
        return pa.schema(pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns)

    @property
    def values(self) -> tuple[Column, ...]:
        """Columns that are not part of the key."""
        return tuple(column for column in self.columns if column.name not in self.key)

    def has(self, name: str) -> bool:
        """Whether the table has a column."""
        return self.column(name) is not None

    @property
    def is_sparse(self) -> bool:
        """Whether only sparse layers have rows."""
        return self.tiles is not None and self.tiles.layers == "sparse"

    def column(self, name: str) -> Column | None:
        """Find a column by name; None if there is none."""
        return next((column for column in self.columns if column.name == name), None)

    def sized(self, experts: int) -> Table:
        """The table with the types for a model with ``experts`` experts."""
        ids = list_of(expert_type(experts))
        columns = (replace(c, type=ids) if c.expert_ids else c for c in self.columns)
        return replace(self, columns=tuple(columns)) if self.has_expert_ids else self

    @property
    def has_expert_ids(self) -> bool:
        """Whether a column holds expert ids."""
        return any(column.expert_ids for column in self.columns)


def list_of(item: pa.DataType) -> pa.DataType:
    """Type of a list without nulls, with the item name that Parquet uses."""
    return pa.list_(pa.field("element", item, nullable=False))


def expert_type(experts: int) -> pa.DataType:
    """Smallest unsigned type for the ids of ``experts`` experts."""
    return pa.uint8() if experts <= 256 else pa.uint16()


FLOATS = list_of(pa.float32())

TRACE = Column("trace_id", pa.int64(), "trace, unique in the store")
RUN = Column("run_id", pa.string(), "run that wrote the row")
LAYER = Column("layer", pa.uint16(), "layer, 0 is the first")
POS = Column(
    "pos", pa.int32(), "token position in the trace, 0 is the first prompt token", unit="tokens"
)


# Measured on 26,000 tokens of Ring-1T's routing, milliseconds of CPU (layer / 64 tokens) and size:
# whole layers up to 122,880 rows 3 / 211, 98 MB; 8,192 rows of 4,096 positions … of one layer
# 7 / 61, 106 MB; of 2,048 positions on four layers 5 / 33, 103 MB; 1,024 on eight 11 / 22, 105 MB.
ROUTING_GROUP = Size(rows=8_192, positions=2_048)
LOGITS_GROUP = Size(rows=4_096, positions=4_096)
HEADS_GROUP = Size(rows=2_048, positions=512)


def per_head(name: str, meaning: str, unit: str = "", label: str = "") -> Column:
    """Make a column with one number per attention head."""
    return Column(name, FLOATS, meaning, unit=unit, shape="H", label=label)


def per_layer_and_token(name: str, meaning: str, *columns: Column) -> Table:
    """Make a table with a row per token and layer, all of which a capture records."""
    key = ("trace_id", "layer", "pos")
    tiles = Tiles("all")
    return Table(
        name, meaning, key, (TRACE, LAYER, POS, *columns), tiles=tiles, row_group=HEADS_GROUP
    )
