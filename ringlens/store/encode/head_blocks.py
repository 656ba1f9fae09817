"""Head statistics by blocks of 64 positions: what `heads` costs 37 kB a token, they cost about 2.

A block that two commits cut has a row of each, with the number of positions that it covers; they
become one when they are read.

Shape letters: N layers, T tokens, B rows or blocks, H heads.
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
"""Positions of a block."""

GROUP_ROWS = 4_096

COLUMNS = tuple(f"{name}_{kind}" for name in HEAD_STATISTICS for kind in ("mean", "max"))

Arrays = dict[str, NDArray]


def of_record(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Iterator[pa.RecordBatch] | None:
    """The row groups of a record's statistics by blocks; None where there are none."""
    heads = record.head_blocks or record.heads
    if heads is None or not heads.layers or not len(record.tokens.token_id):
        return None
    return row_groups(trace_id, heads, record.start, range(*share.cut(len(heads.layers))))


def size(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Layers and values of one statistic of each token."""
    heads = record.head_blocks or record.heads
    return (0, 0) if heads is None else (len(heads.layers), heads.entropy.size)


def row_groups(
    trace_id: int, heads: HeadArrays, start: int, layers: range
) -> Iterator[pa.RecordBatch]:
    """The rows of some layers, in groups.

    Args:
        trace_id: The trace.
        heads: Statistics of its tokens from position ``start`` on.
        start: Position of the first token.
        layers: Which of the layers of ``heads``, by index.
    """
    tokens = heads.entropy.shape[1]
    pos_B, _ = spans(start, tokens)
    step = max(1, GROUP_ROWS // len(pos_B))
    for first in range(layers.start, layers.stop, step):
        chosen = slice(first, min(first + step, layers.stop))
        yield _batch(trace_id, heads, start, chosen)


def spans(start: int, tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First position [B] and number of positions [B] of the rows that some tokens give."""
    inner = np.arange(start // HEAD_BLOCK + 1, -(-(start + tokens) // HEAD_BLOCK)) * HEAD_BLOCK
    pos_B = np.concatenate([[start], inner]).astype(np.int32)
    return pos_B, np.diff(pos_B, append=start + tokens).astype(np.int32)


def summary(values_NTH: NDArray, start: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and maximum, both [N, B, H], of the values of tokens from ``start`` on."""
    values_NTH = float32(values_NTH)
    layers, tokens, heads = values_NTH.shape
    before = min(-start % HEAD_BLOCK, tokens)  # of a block that begins earlier
    whole = (tokens - before) // HEAD_BLOCK
    end = before + whole * HEAD_BLOCK
    shape = (layers, whole, HEAD_BLOCK, heads)
    pieces = [
        values_NTH[:, None, :before],
        values_NTH[:, before:end].reshape(shape),
        values_NTH[:, None, end:],
    ]
    pieces = [piece for piece in pieces if piece.shape[1] and piece.shape[2]]
    mean = [piece.mean(axis=2, dtype=np.float64).astype(np.float32) for piece in pieces]
    return np.concatenate(mean, axis=1), np.concatenate([p.max(axis=2) for p in pieces], axis=1)


def of_tokens(statistics: Arrays) -> Arrays:
    """The blocks of one layer whose statistics [T, H] of all tokens from position 0 are known."""
    pos_B, n_B = spans(0, len(statistics[HEAD_STATISTICS[0]]))
    found: Arrays = {"pos": pos_B, "n": n_B}
    for name in HEAD_STATISTICS:
        mean_NBH, max_NBH = summary(statistics[name][None], 0)
        found |= {f"{name}_mean": mean_NBH[0], f"{name}_max": max_NBH[0]}
    return found


def merged(rows: pa.Table) -> Arrays:
    """The blocks of one layer, each once.

    Args:
        rows: Rows of one layer, in order of pos.

    Returns:
        ``pos`` and ``n`` [B], and [B, H] each of COLUMNS. Means are weighted by the number of
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
