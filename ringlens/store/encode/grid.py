"""Tables with a row for each layer and token, cut into row groups that any view finds its way in.

A page that shows one token reads a few positions on all layers; one that shows a layer reads all
positions of it. A row group is therefore a rectangle: some positions of some layers. DuckDB skips
those that a query cannot need by the smallest and largest layer and position of each (it skips
pages as well, but not of lists, which are most of these tables).

Shape letters: T tokens, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Size(NamedTuple):
    """The most rows and the most positions of a row group."""

    rows: int
    positions: int


# Measured on 26,000 tokens of Ring-1T's routing, milliseconds of CPU (layer / 64 tokens) and size:
# whole layers up to 122,880 rows 3 / 211, 98 MB; 8,192 rows of 4,096 positions … of one layer
# 7 / 61, 106 MB; of 2,048 positions on four layers 5 / 33, 103 MB; 1,024 on eight 11 / 22, 105 MB.
ROUTING = Size(rows=8_192, positions=2_048)
LOGITS = Size(rows=4_096, positions=4_096)
HEADS = Size(rows=2_048, positions=512)


@dataclass(frozen=True)
class Grid:
    """Rows of one row group: tokens ``start`` to ``stop`` of a record on some of its layers.

    Attributes:
        trace_id: The trace.
        layers: The record's layers.
        first: First of the layers, counted among ``layers``.
        last: The one after the last.
        first_pos: Position of the record's first token.
        start: First token, counted in the record.
        stop: The one after the last.
    """

    trace_id: int
    layers: tuple[int, ...]
    first: int
    last: int
    first_pos: int
    start: int
    stop: int

    def keys(self) -> list[pa.Array]:
        """The columns trace_id, layer and pos."""
        layers, tokens = self.last - self.first, self.stop - self.start
        pos_T = np.arange(self.first_pos + self.start, self.first_pos + self.stop, dtype=np.int32)
        layer = np.asarray(self.layers[self.first : self.last], np.uint16)
        return [
            pa.array(np.full(layers * tokens, self.trace_id, np.int64)),
            pa.array(np.repeat(layer, tokens)),
            pa.array(np.tile(pos_T, layers)),
        ]

    def rows(self, array: NDArray) -> NDArray:
        """These rows of an array [layers, T, …], as [R, …]; no other is ever copied."""
        block = array[self.first : self.last, self.start : self.stop]
        return block.reshape(block.shape[0] * block.shape[1], *array.shape[2:])


def grids(
    trace_id: int,
    layers: tuple[int, ...],
    first_pos: int,
    tokens: int,
    size: Size,
    cut: tuple[int, int],
) -> Iterator[Grid]:
    """The row groups of a record: as many layers in each as fit beside its positions.

    Args:
        trace_id: The trace.
        layers: The record's layers.
        first_pos: Position of its first token.
        tokens: T.
        size: The most that a row group holds.
        cut: First layer and the one after the last, counted among ``layers``.
    """
    width = min(tokens, size.positions, size.rows)
    height = size.rows // width
    for first in range(*cut, height):
        last = min(first + height, cut[1])
        for start in range(0, tokens, width):
            stop = min(start + width, tokens)
            yield Grid(trace_id, layers, first, last, first_pos, start, stop)
