"""Encodes arrays by layer and token: one row per layer and token, one column per array.

Arrays are reshaped and given offsets, never walked token by token; large ones are not copied.

Shape letters: T tokens, S sparse layers, N layers, E experts, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.encode.columns import fixed_lists, float32
from ringlens.store.encode.grid import Grid, LayerShare, grids
from ringlens.store.schema.records import LayerArrays, TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import HEADS_GROUP, Table

Batches = Iterator[pa.RecordBatch]


def of_statistics(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Batches | None:
    """Make the row groups of a table that names no encoder."""
    return row_groups(table, trace_id, record, record.statistics.get(table.name), share)


def of_heads(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Batches | None:
    """Make the row groups of ``heads``."""
    heads = None if record.heads is None else record.heads.arrays
    return row_groups(table, trace_id, record, heads, share)


def of_logits(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Batches | None:
    """Make the row groups of ``router_logits``."""
    logits_STE = record.router_logits
    if logits_STE is None or not len(logits_STE):
        return None
    layers = record.layers_of_logits(run.sparse_layers)
    return row_groups(table, trace_id, record, LayerArrays(layers, {"logits": logits_STE}), share)


def row_groups(
    table: Table,
    trace_id: int,
    record: TraceRecord,
    arrays: LayerArrays | None,
    share: LayerShare,
) -> Batches | None:
    """Make the row groups of one trace's arrays; None if there are none."""
    tokens = len(record.tokens.token_id)
    if arrays is None or tokens == 0 or not arrays.count:
        return None
    layers = arrays.layers or (0,)
    cut = share.cut(len(layers))
    parts = grids(trace_id, layers, record.start, tokens, table.row_group or HEADS_GROUP, cut)
    return (_batch(part, arrays, table) for part in parts)


def size_of_statistics(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Number of layers, and of values in one column."""
    return _size(record.statistics.get(table.name))


def size_of_heads(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Number of layers, and of values in one column."""
    return _size(None if record.heads is None else record.heads.arrays)


def size_of_logits(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Number of layers and of logits."""
    logits_STE = record.router_logits
    return (0, 0) if logits_STE is None else (len(logits_STE), logits_STE.size)


def _size(arrays: LayerArrays | None) -> tuple[int, int]:
    if arrays is None or not arrays.columns:
        return 0, 0
    return arrays.count, next(iter(arrays.columns.values())).size


def _batch(part: Grid, arrays: LayerArrays, table: Table) -> pa.RecordBatch:
    """Encode one row group: the table's keys, then its other columns."""
    keys = dict(zip(("trace_id", "layer", "pos"), part.keys(), strict=True))
    columns = [
        keys[field.name]
        if field.name in keys
        else _column(part.rows(arrays.columns[field.name]), field.type)
        for field in table.arrow
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.arrow)


def _column(values: NDArray, arrow: pa.DataType) -> pa.Array:
    """Encode values [R] as numbers, or [R, width] as lists."""
    listed = pa.types.is_list(arrow)
    item = arrow.value_type if listed else arrow
    as_stored = (
        float32(values)
        if item == pa.float32()
        else np.ascontiguousarray(values, item.to_pandas_dtype())
    )
    return fixed_lists(as_stored, arrow) if listed else pa.array(as_stored, arrow)
