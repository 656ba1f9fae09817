"""What a table of the store is: columns with their Arrow type, unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        type: Its Arrow type.
        meaning: What it means.
        nullable: Whether it may be null.
        unit: Unit of its values.
        shape: Letters of a row's value: "" one number, "H" one a head, "E" one an expert, "k" one
            a chosen expert. Given where the arrays of a record are checked by it.
        label: Its name on a page, short; "" where no page shows it by itself.
        infinite: The infinity that it may hold and that means something; None if none does.
        expert_ids: Whether it holds ids of experts, which are stored in the smallest type that
            holds those of the model.
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
    """The most rows and the most positions of a row group, a rectangle of layers and positions."""

    rows: int
    positions: int


@dataclass(frozen=True)
class Tiles:
    """That the rows of a table cover every token of a trace.

    Attributes:
        layers: On which layers: "all", "sparse", or "none" for a table without layers.
        length: Column with the number of positions that a row covers; "" where that is one.
        imported: Whether that holds for imported runs too, of which some tokens have no row.
    """

    layers: str
    length: str = ""
    imported: bool = True


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
        tiles: Which tokens and layers have rows; None where only some do.
        row_group: The most that a row group holds, of a table with a row for each layer and token.
        encoder: Name of what makes rows of a record's arrays, in `ringlens.store.encode.encoders`.
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
        """The Arrow schema of the table's files."""
        return pa.schema(pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns)

    @property
    def values(self) -> tuple[Column, ...]:
        """The columns beside the key."""
        return tuple(column for column in self.columns if column.name not in self.key)

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return self.column(name) is not None

    @property
    def is_sparse(self) -> bool:
        """Whether only layers that route have rows."""
        return self.tiles is not None and self.tiles.layers == "sparse"

    def column(self, name: str) -> Column | None:
        """A column by its name; None if there is none."""
        return next((column for column in self.columns if column.name == name), None)

    def sized(self, experts: int) -> Table:
        """The table for a model with so many experts."""
        ids = list_of(expert_type(experts))
        columns = (replace(c, type=ids) if c.expert_ids else c for c in self.columns)
        return replace(self, columns=tuple(columns)) if self.has_expert_ids else self

    @property
    def has_expert_ids(self) -> bool:
        """Whether a column holds ids of experts."""
        return any(column.expert_ids for column in self.columns)


def list_of(item: pa.DataType) -> pa.DataType:
    """A list without nulls in it, as Parquet names its parts."""
    return pa.list_(pa.field("element", item, nullable=False))


def expert_type(experts: int) -> pa.DataType:
    """The smallest unsigned type that holds the expert ids of a model with ``experts`` experts."""
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
    """A column with a number for each attention head."""
    return Column(name, FLOATS, meaning, unit=unit, shape="H", label=label)


def per_layer_and_token(name: str, meaning: str, *columns: Column) -> Table:
    """A table with a row for each token and layer, of which a capture records all."""
    key = ("trace_id", "layer", "pos")
    tiles = Tiles("all")
    return Table(
        name, meaning, key, (TRACE, LAYER, POS, *columns), tiles=tiles, row_group=HEADS_GROUP
    )
