"""Encodes vectors and top attention, which are recorded for chosen layers, heads and positions.

Rows are sorted across all traces of a commit, so that one point's vectors of many traces are
adjacent.

Shape letters: L layers, P positions, H heads, C components of a vector, k keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.encode.columns import fixed_lists, float32, masked_lists
from ringlens.store.schema.recorded_tables import ACTIVATIONS, ATTENTION
from ringlens.store.schema.records import TraceRecord

GROUP_VALUES = 2**21
"""Floats per row group: 8 MiB."""

Traces = Sequence[tuple[int, TraceRecord]]


@dataclass(frozen=True)
class Piece:
    """Rows of one point, layer and head in one trace.

    Attributes:
        point: The point; "" in ``attention``.
        layer: The layer; -1 outside the layers.
        head: The head; -1 without heads.
        trace_id: The trace.
        pos: [P].
        values: [P, C] vectors, or [P, k] weights.
        positions: [P, k] positions of the keys, in ``attention``.
    """

    point: str
    layer: int
    head: int
    trace_id: int
    pos: NDArray
    values: NDArray
    positions: NDArray | None = None

    @property
    def key(self) -> tuple[str, int, int, int, int]:
        """Sort key."""
        return self.point, self.layer, self.head, self.trace_id, int(self.pos[0])

    def cut(self) -> Iterator[Piece]:
        """Split the piece into parts of at most GROUP_VALUES values."""
        rows = max(1, GROUP_VALUES // max(1, self.values.shape[1]))
        for first in range(0, len(self.pos), rows):
            part = slice(first, first + rows)
            positions = None if self.positions is None else self.positions[part]
            key = (self.point, self.layer, self.head, self.trace_id)
            yield Piece(*key, self.pos[part], self.values[part], positions)


def activations(traces: Traces) -> Iterator[pa.RecordBatch] | None:
    """Make the row groups of ``activations``; None without rows."""
    pieces = [
        Piece(vectors.point, layer, head, trace_id, vectors.pos, values_PC)
        for trace_id, record in traces
        for vectors in record.vectors
        for layer, values in zip(vectors.layers or (-1,), vectors.values, strict=True)
        for head, values_PC in _by_head(vectors.heads, values)
    ]
    return _groups(pieces, _vector_batch)


def attention(traces: Traces) -> Iterator[pa.RecordBatch] | None:
    """Make the row groups of ``attention``; None without rows."""
    pieces = [
        Piece("", layer, head, trace_id, top.pos, top.weights[i, :, j], top.positions[i, :, j])
        for trace_id, record in traces
        if (top := record.attention) is not None
        for i, layer in enumerate(top.layers)
        for j, head in enumerate(top.heads)
    ]
    return _groups(pieces, _attention_batch)


def round11(values: NDArray) -> NDArray[np.float32]:
    """Round float32 to 11 significant bits, half to even: fp16's precision without its range.

    The largest components of a residual stream exceed fp16's 65,504.
    """
    values = float32(values)
    bits = values.view(np.uint32)
    # Add just under half of the last kept bit, plus one if that bit is odd, then cut off the 13
    # bits below it. A carry into the exponent is correct rounding, but would turn infinity into
    # NaN, so numbers that are not finite are kept as they are.
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    rounded = (bits + np.uint32(0x0FFF) + odd) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def _by_head(heads: tuple[int, ...] | None, values: NDArray) -> Iterator[tuple[int, NDArray]]:
    """Split vectors [P, C] or [P, H, C] into one [P, C] per head."""
    if heads is None:
        yield -1, values
        return
    for index, head in enumerate(heads):
        yield head, values[:, index]


def _groups(
    pieces: list[Piece], batch: Callable[[Piece], tuple[int, pa.RecordBatch]]
) -> Iterator[pa.RecordBatch] | None:
    """Sort pieces and make row groups of them: small ones are merged, large ones split."""
    filled = sorted((piece for piece in pieces if len(piece.pos)), key=lambda piece: piece.key)
    if not filled:
        return None
    return _merged(batch(part) for piece in filled for part in piece.cut())


def _merged(batches: Iterator[tuple[int, pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Merge batches, given with their numbers of values, up to GROUP_VALUES values."""
    waiting: list[pa.RecordBatch] = []
    total = 0
    for values, batch in batches:
        if waiting and total + values > GROUP_VALUES:
            yield pa.concat_batches(waiting)
            waiting, total = [], 0
        waiting.append(batch)
        total += values
    yield pa.concat_batches(waiting)


def _vector_batch(piece: Piece) -> tuple[int, pa.RecordBatch]:
    rows = len(piece.pos)
    values = round11(piece.values)
    columns = [
        pa.array(np.full(rows, piece.trace_id, np.int64)),
        pa.repeat(pa.scalar(piece.point, pa.string()), rows),
        _optional(piece.layer, rows),
        _optional(piece.head, rows),
        pa.array(np.asarray(piece.pos, np.int32)),
        fixed_lists(values, ACTIVATIONS.arrow.field("vector").type),
    ]
    return values.size, pa.RecordBatch.from_arrays(columns, schema=ACTIVATIONS.arrow)


def _attention_batch(piece: Piece) -> tuple[int, pa.RecordBatch]:
    assert piece.positions is not None
    rows, arrow = len(piece.pos), ATTENTION.arrow
    seen_Pk = piece.positions >= 0  # early queries see fewer than k keys
    positions_Pk = np.asarray(piece.positions, np.int32)
    columns = [
        pa.array(np.full(rows, piece.trace_id, np.int64)),
        pa.array(np.full(rows, piece.layer, np.uint16)),
        pa.array(np.full(rows, piece.head, np.uint16)),
        pa.array(np.asarray(piece.pos, np.int32)),
        masked_lists(positions_Pk, seen_Pk, arrow.field("positions").type),
        masked_lists(round11(piece.values), seen_Pk, arrow.field("weights").type),
    ]
    return piece.values.size, pa.RecordBatch.from_arrays(columns, schema=arrow)


def _optional(value: int, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value if value >= 0 else None, pa.uint16()), rows)
