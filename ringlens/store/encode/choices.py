"""Encodes which experts were chosen, and why, as row groups of ``routing``.

Shape letters: T tokens, S sparse layers, k experts per token, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ringlens.store.encode import grid
from ringlens.store.encode.columns import fixed_lists, float32, lists_or_null, masked_lists
from ringlens.store.encode.grid import Grid, LayerShare
from ringlens.store.schema.records import ActedArrays, ChoiceArrays, RoutingArrays, TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import ROUTING_GROUP, Size, Table


def row_groups(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Iterator[pa.RecordBatch] | None:
    """Make the row groups of a record's routing; None if it has none."""
    routing, tokens, arrow = record.routing, len(record.tokens.token_id), table.arrow
    group = table.row_group or ROUTING_GROUP
    if routing is None or tokens == 0:
        return None
    if isinstance(routing, ChoiceArrays):
        return _choice_groups(trace_id, routing, arrow, share, group)
    full, cut = routing, share.cut(len(routing.layers))
    parts = grid.grids(trace_id, full.layers, record.start, tokens, group, cut)
    return (_routing_batch(part, full, arrow) for part in parts) if full.layers else None


def count(record: TraceRecord) -> tuple[int, int]:
    """Number of layers and of chosen experts in a record."""
    routing = record.routing
    return (0, 0) if routing is None else (len(routing.layers), routing.expert_ids.size)


def size(table: Table, record: TraceRecord) -> tuple[int, int]:
    """`count` in the form that an encoder needs."""
    return count(record)


def _routing_batch(part: Grid, routing: RoutingArrays, arrow: pa.Schema) -> pa.RecordBatch:
    ids = arrow.field("expert_ids").type
    id_type = ids.value_type.to_pandas_dtype()
    expert_ids_Rk = part.rows(routing.expert_ids).astype(id_type, copy=False)
    unlimited_Rk = part.rows(routing.unlimited_ids).astype(id_type, copy=False)
    columns = [
        *part.keys(),
        fixed_lists(expert_ids_Rk, ids),
        fixed_lists(float32(part.rows(routing.weights)), arrow.field("weights").type),
        fixed_lists(float32(part.rows(routing.affinities)), arrow.field("affinities").type),
        pa.array(float32(part.rows(routing.margin))),
        pa.array(float32(part.rows(routing.group_margin))),
        masked_lists(expert_ids_Rk, part.rows(routing.bias_flips), ids),
        masked_lists(unlimited_Rk, part.rows(routing.group_flips), ids),
        pa.array(float32(part.rows(routing.entropy))),
    ]
    if routing.acted is None:
        unknown = [
            pa.nulls(len(expert_ids_Rk), field.type) for field in list(arrow)[len(columns) :]
        ]
    else:
        unknown = _acted(part, routing.acted, arrow)
    return pa.RecordBatch.from_arrays([*columns, *unknown], schema=arrow)


def _acted(part: Grid, acted: ActedArrays, arrow: pa.Schema) -> list[pa.Array]:
    """Columns of what interventions changed; null where nothing did."""
    ids, same_R = arrow.field("own_ids").type, ~part.rows(acted.differs)
    id_type = ids.value_type.to_pandas_dtype()
    own_ids_Rk = part.rows(acted.own_ids).astype(id_type, copy=False)
    own_weights_Rk = float32(part.rows(acted.own_weights))
    shape = acted.intervened.shape
    numbers_STI = np.broadcast_to(acted.numbers[:, None], shape).astype(np.uint16)
    return [
        lists_or_null(own_ids_Rk, same_R, ids),
        lists_or_null(own_weights_Rk, same_R, arrow.field("own_weights").type),
        masked_lists(
            part.rows(numbers_STI), part.rows(acted.intervened), arrow.field("intervened").type
        ),
    ]


def _choice_groups(
    trace_id: int, choices: ChoiceArrays, arrow: pa.Schema, share: LayerShare, group: Size
) -> Iterator[pa.RecordBatch] | None:
    """Make row groups that hold only choices, with null in other columns; None without rows."""
    layers, rows, _ = choices.expert_ids.shape
    if not layers * rows:
        return None
    cut = share.cut(layers)
    parts = grid.grids(trace_id, choices.layers, choices.first, rows, group, cut)
    return (_choice_batch(part, choices, arrow) for part in parts)


def _choice_batch(part: Grid, choices: ChoiceArrays, arrow: pa.Schema) -> pa.RecordBatch:
    ids = arrow.field("expert_ids").type
    id_type = ids.value_type.to_pandas_dtype()
    expert_ids_Rk = part.rows(choices.expert_ids).astype(id_type, copy=False)
    columns = [*part.keys(), fixed_lists(expert_ids_Rk, ids)]
    unknown = [pa.nulls(len(expert_ids_Rk), field.type) for field in list(arrow)[len(columns) :]]
    return pa.RecordBatch.from_arrays([*columns, *unknown], schema=arrow)
