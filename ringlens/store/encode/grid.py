"""Cuts tables with a row per layer and token into row groups that suit every kind of query.

A page about one token reads a few positions on all layers; a page about one layer reads all its
positions. So a row group is a rectangle: some positions of some layers. DuckDB skips row groups by
the smallest and largest layer and position of each. (It skips pages too, but not of lists, which
make up most of these tables.)

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
    """Share ``index`` of ``of`` about equal shares of every trace's layers."""

    index: int = 0
    of: int = 1

    def cut(self, layers: int) -> tuple[int, int]:
        """Index of the share's first layer, and the one after its last, among ``layers``."""
        return layers * self.index // self.of, layers * (self.index + 1) // self.of


WHOLE = LayerShare()


@dataclass(frozen=True)
class Grid:
    """Rows of one row group: tokens ``start`` to ``stop`` of a record on some of its layers.

    Attributes:
        trace_id: The trace.
        layers: The record's layers.
        first: Index of the first layer among ``layers``.
        last: Index after the last layer.
        first_pos: Position of the record's first token.
        start: Index of the first token in the record.
        stop: Index after the last token.
    """

    trace_id: int
    layers: tuple[int, ...]
    first: int
    last: int
    first_pos: int
    start: int
    stop: int

    def keys(self) -> list[pa.Array]:
        """Columns trace_id, layer and pos."""
        layers, tokens = self.last - self.first, self.stop - self.start
        pos_T = np.arange(self.first_pos + self.start, self.first_pos + self.stop, dtype=np.int32)
        layer = np.asarray(self.layers[self.first : self.last], np.uint16)
        return [
            pa.array(np.full(layers * tokens, self.trace_id, np.int64)),
            pa.array(np.repeat(layer, tokens)),
            pa.array(np.tile(pos_T, layers)),
        ]

    def rows(self, array: NDArray) -> NDArray:
        """Take these rows of an array [layers, T, …] as [R, …], copying at most them."""
        part = array[self.first : self.last, self.start : self.stop]
        return part.reshape(part.shape[0] * part.shape[1], *array.shape[2:])


def grids(
    trace_id: int,
    layers: tuple[int, ...],
    first_pos: int,
    tokens: int,
    size: Size,
    cut: tuple[int, int],
) -> Iterator[Grid]:
    """Divide a record into row groups, each with as many layers as fit.

    Args:
        trace_id: The trace.
        layers: The record's layers.
        first_pos: Position of the record's first token.
        tokens: Number of tokens T.
        size: Largest size of a row group.
        cut: Index of the first layer to include, and the one after the last, among ``layers``.
    """
    width = min(tokens, size.positions, size.rows)
    height = size.rows // width
    for first in range(*cut, height):
        last = min(first + height, cut[1])
        for start in range(0, tokens, width):
            stop = min(start + width, tokens)
            yield Grid(trace_id, layers, first, last, first_pos, start, stop)
