"""Summarizes head statistics by head blocks of 64 positions: 2 kB per token, `heads` takes 37 kB.

If two commits each write a part of a head block, it has two rows, each with the number of
positions that it covers. Readers merge them.

Shape letters: N layers, T tokens, B rows or head blocks, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.encode.columns import fixed_lists, float32, matrix
from ringlens.store.encode.grid import LayerShare
from ringlens.store.schema.recorded_tables import HEAD_BLOCKS, HEAD_STATISTICS
from ringlens.store.schema.records import HeadArrays, TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table

HEAD_BLOCK = 64
"""Positions per head block."""

GROUP_ROWS = 4_096

COLUMNS = tuple(f"{name}_{kind}" for name in HEAD_STATISTICS for kind in ("mean", "max"))

Arrays = dict[str, NDArray]


def of_record(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Iterator[pa.RecordBatch] | None:
    """Make the row groups of a record's head blocks; None if it has none."""
    heads = record.head_blocks or record.heads
    if heads is None or not heads.layers or not len(record.tokens.token_id):
        return None
    return row_groups(trace_id, heads, record.start, range(*share.cut(len(heads.layers))))


def size(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Number of layers, and of values of one statistic."""
    heads = record.head_blocks or record.heads
    return (0, 0) if heads is None else (len(heads.layers), heads.entropy.size)


def row_groups(
    trace_id: int, heads: HeadArrays, start: int, layers: range
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some layers in row groups.

    Args:
        trace_id: The trace.
        heads: Statistics of the trace's tokens from position ``start``.
        start: Position of the first token.
        layers: Indices of the layers among those of ``heads``.
    """
    tokens = heads.entropy.shape[1]
    pos_B, _ = spans(start, tokens)
    step = max(1, GROUP_ROWS // len(pos_B))
    for first in range(layers.start, layers.stop, step):
        chosen = slice(first, min(first + step, layers.stop))
        yield _batch(trace_id, heads, start, chosen)


def spans(start: int, tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First position [B] and number of positions [B] of the rows for a range of tokens."""
    inner = np.arange(start // HEAD_BLOCK + 1, -(-(start + tokens) // HEAD_BLOCK)) * HEAD_BLOCK
    pos_B = np.concatenate([[start], inner]).astype(np.int32)
    return pos_B, np.diff(pos_B, append=start + tokens).astype(np.int32)


def summary(values_NTH: NDArray, start: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and maximum per head block, both [N, B, H], of values of tokens from ``start``."""
    values_NTH = float32(values_NTH)
    layers, tokens, heads = values_NTH.shape
    before = min(-start % HEAD_BLOCK, tokens)  # tokens of a head block that began earlier
    whole = (tokens - before) // HEAD_BLOCK
    end = before + whole * HEAD_BLOCK
    shape = (layers, whole, HEAD_BLOCK, heads)
    pieces = [
        values_NTH[:, None, :before],
        values_NTH[:, before:end].reshape(shape),
        values_NTH[:, None, end:],
    ]
    pieces = [piece for piece in pieces if piece.shape[1] and piece.shape[2]]
    # Means in float64: a float32 sum of 64 numbers would differ with the order of adding them.
    mean = [piece.mean(axis=2, dtype=np.float64).astype(np.float32) for piece in pieces]
    return np.concatenate(mean, axis=1), np.concatenate([p.max(axis=2) for p in pieces], axis=1)


def of_tokens(statistics: Arrays) -> Arrays:
    """Compute the head blocks of one layer from statistics [T, H] of all tokens."""
    pos_B, n_B = spans(0, len(statistics[HEAD_STATISTICS[0]]))
    found: Arrays = {"pos": pos_B, "n": n_B}
    for name in HEAD_STATISTICS:
        mean_NBH, max_NBH = summary(statistics[name][None], 0)
        found |= {f"{name}_mean": mean_NBH[0], f"{name}_max": max_NBH[0]}
    return found


def merged(rows: pa.Table) -> Arrays:
    """Merge rows of the same head block.

    Args:
        rows: Rows of one layer, sorted by pos.

    Returns:
        ``pos`` and ``n`` [B], and each of COLUMNS [B, H]. Means are weighted by the number of
        positions, in float64.
    """
    pos_R, n_R = (rows[name].to_numpy() for name in ("pos", "n"))
    if not len(pos_R):
        return {"pos": pos_R, "n": n_R}
    first_B = np.flatnonzero(np.diff(pos_R // HEAD_BLOCK, prepend=-1))
    n_B = np.add.reduceat(n_R, first_B, dtype=np.int32)
    found: Arrays = {"pos": pos_R[first_B], "n": n_B}
    for name in COLUMNS:
        values_RH = matrix(rows[name])
        if name.endswith("_max"):
            found[name] = np.maximum.reduceat(values_RH, first_B)
        else:
            sum_BH = np.add.reduceat(values_RH * n_R[:, None].astype(np.float64), first_B)
            found[name] = (sum_BH / n_B[:, None]).astype(np.float32)
    return found


def _batch(trace_id: int, heads: HeadArrays, start: int, chosen: slice) -> pa.RecordBatch:
    layers, tokens = heads.layers[chosen], heads.entropy.shape[1]
    pos_B, n_B = spans(start, tokens)
    rows = len(layers) * len(pos_B)
    columns = [
        pa.array(np.full(rows, trace_id, np.int64)),
        pa.array(np.repeat(np.asarray(layers, np.uint16), len(pos_B))),
        pa.array(np.tile(pos_B, len(layers))),
        pa.array(np.tile(n_B, len(layers)).astype(np.uint8)),
    ]
    for name in HEAD_STATISTICS:
        for values_NBH in summary(getattr(heads, name)[chosen], start):
            lists = values_NBH.reshape(rows, -1)
            columns.append(fixed_lists(lists, HEAD_BLOCKS.arrow.field(len(columns)).type))
    return pa.RecordBatch.from_arrays(columns, schema=HEAD_BLOCKS.arrow)
