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

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.schema.table import Size


@dataclass(frozen=True)
class LayerShare:
    """The ``index``-th of ``of`` about equal shares of every trace's layers."""

    index: int = 0
    of: int = 1

    def cut(self, layers: int) -> tuple[int, int]:
        """First layer of the share and the one after its last, counted among ``layers``."""
        return layers * self.index // self.of, layers * (self.index + 1) // self.of


WHOLE = LayerShare()


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
