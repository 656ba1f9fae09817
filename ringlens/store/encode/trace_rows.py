"""Records to Arrow: numpy arrays of one trace become row groups of each table.

Arrays are reshaped and offset, never walked token by token, and large ones are not copied.

Shape letters: T tokens, S sparse layers, N layers, k experts a token, E experts, H heads, R rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.encode import grid, head_blocks, vectors
from ringlens.store.encode.columns import fixed_lists, float32, masked_lists
from ringlens.store.encode.grid import Grid
from ringlens.store.schema import captured
from ringlens.store.schema.records import (
    ChoiceArrays,
    RoutingArrays,
    RunRecord,
    TokenArrays,
    TraceRecord,
)
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table

TOKEN_ROWS = 20_000

SHARE_NS = 16e6
"""Work worth a file of its own: with less, one file is as fast and read faster."""

# Nanoseconds of one core a chosen expert, a logit, a head and token: measured at Ring-1T's size.
COST_NS = {"routing": 70, "router_logits": 4, "heads": 40, "head_blocks": 11, "usage": 24}


@dataclass(frozen=True)
class LayerShare:
    """The ``index``-th of ``of`` about equal shares of every trace's layers."""

    index: int = 0
    of: int = 1

    def cut(self, layers: int) -> tuple[int, int]:
        """First layer of the share and the one after its last, counted among ``layers``."""
        return layers * self.index // self.of, layers * (self.index + 1) // self.of


WHOLE = LayerShare()


def row_groups(
    table: Table,
    traces: Sequence[tuple[int, TraceRecord]],
    run: RunShape,
    share: LayerShare = WHOLE,
) -> Iterator[pa.RecordBatch] | None:
    """The row groups of some traces in one table.

    Args:
        table: The table.
        traces: Ids in the store and records, ascending by id.
        run: Sizes of the run they belong to.
        share: The layers to be encoded, of a table that `shares` divides.

    Returns:
        Row groups, made one at a time, each sorted by the table's key; None if there are no rows.
    """
    if table.name in ("activations", "attention"):
        groups = vectors.activations if table.name == "activations" else vectors.attention
        return groups(traces)
    parts = [found for pair in traces if (found := _of_trace(table, *pair, run, share)) is not None]
    return chain.from_iterable(parts) if parts else None


def shares(table: Table, records: Sequence[TraceRecord], workers: int) -> list[LayerShare]:
    """How ``workers`` divide a table: by layers, if there is enough of it to be worth it.

    pyarrow encodes a file on one thread, so a large table takes several files. They are few: a
    query opens each of them.
    """
    layers = max((_size(table.name, record)[0] for record in records), default=0)
    count = max(1, min(workers, layers, int(cost(table.name, records) / SHARE_NS)))
    return [LayerShare(index, count) for index in range(count)]


def cost(table: str, records: Sequence[TraceRecord]) -> float:
    """About how long one core encodes some records in a table, in nanoseconds."""
    return COST_NS.get(table, 0) * values(table, records)


def values(table: str, records: Sequence[TraceRecord]) -> int:
    """What is counted in COST_NS, for some records."""
    return sum(_size(table, record)[1] for record in records)


def _size(table: str, record: TraceRecord) -> tuple[int, int]:
    """Layers and values of a record in a table with a row for each layer and token."""
    routing, logits_STE, heads = record.routing, record.router_logits, record.heads
    if table == "router_logits" and logits_STE is not None:
        return len(logits_STE), logits_STE.size
    if table in ("routing", "usage") and routing is not None:
        return len(routing.layers), routing.expert_ids.size
    if table == "heads" and heads is not None:
        return len(heads.layers), heads.entropy.size
    if table == "head_blocks" and (blocks := record.head_blocks or heads) is not None:
        return len(blocks.layers), blocks.entropy.size
    return 0, 0


def _of_trace(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Iterator[pa.RecordBatch] | None:
    """The row groups of one trace in a table; None if it has no rows there."""
    start, tokens = record.start, len(record.tokens.token_id)

    def grids(layers: tuple[int, ...], size: grid.Size) -> Iterator[Grid]:
        return grid.grids(trace_id, layers, start, tokens, size, share.cut(len(layers)))

    routing, logits_STE, heads = record.routing, record.router_logits, record.heads
    if table.name == "tokens" and record.rewritten is not None:
        return chain(
            _token_groups(trace_id, 0, record.rewritten),
            _token_groups(trace_id, start, record.tokens),
        )
    if tokens == 0:
        return None
    if table.name == "tokens":
        return _token_groups(trace_id, start, record.tokens)
    if table.name == "routing" and isinstance(routing, ChoiceArrays):
        return _choice_groups(trace_id, routing, table.arrow, share)
    if table.name == "routing" and isinstance(routing, RoutingArrays) and routing.layers:
        full = routing
        parts = grids(full.layers, grid.ROUTING)
        return (_routing_batch(part, full, table.arrow) for part in parts)
    if table.name == "router_logits" and logits_STE is not None and len(logits_STE):
        layers = run.sparse_layers if routing is None else routing.layers
        return (_batch(part, [logits_STE], table.arrow) for part in grids(layers, grid.LOGITS))
    if table.name == "heads" and heads is not None and heads.layers:
        arrays = [heads.entropy, heads.first_weight, heads.previous_weight, heads.output_norm]
        return (_batch(part, arrays, table.arrow) for part in grids(heads.layers, grid.HEADS))
    blocks = record.head_blocks or heads
    if table.name == "head_blocks" and blocks is not None and blocks.layers:
        chosen = range(*share.cut(len(blocks.layers)))
        return head_blocks.row_groups(trace_id, blocks, start, chosen)
    return None


def trace_batch(
    run_id: str, trace_ids: Sequence[int], records: Sequence[TraceRecord]
) -> pa.RecordBatch:
    """The rows of ``traces``."""
    names = captured.TRACES.arrow.names
    rows = [
        {name: getattr(record, name, None) for name in names}
        | {"trace_id": trace_id, "run_id": run_id, "flags": record.flags or None}
        for trace_id, record in zip(trace_ids, records, strict=True)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=captured.TRACES.arrow)


def run_batch(run_id: str, run: RunRecord, started: datetime) -> pa.RecordBatch:
    """The run's row of ``runs``, not yet finished."""
    row = {name: getattr(run, name, None) for name in captured.RUNS.arrow.names}
    for name in ("parallel", "versions", "sampling"):
        row[name] = json.dumps(getattr(run, name), sort_keys=True)
    row["router"] = json.dumps(run.router, sort_keys=True) if run.router else None
    row |= {"run_id": run_id, "started": started, "finished": None}
    return pa.RecordBatch.from_pylist([row], schema=captured.RUNS.arrow)


def expert_batch(run_id: str, run: RunRecord) -> pa.RecordBatch:
    """The run's rows of ``experts``: every expert of every sparse layer."""
    layers, experts = len(run.sparse_layers), run.experts
    expert_R = np.tile(np.arange(experts, dtype=np.uint16), layers)
    columns = [
        pa.repeat(run_id, len(expert_R)),
        pa.array(np.repeat(np.asarray(run.sparse_layers, np.uint16), experts)),
        pa.array(expert_R),
        pa.array((expert_R // (experts // run.groups)).astype(np.uint16)),
        _nullable(run.expert_bias.reshape(-1)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=captured.EXPERTS.arrow)


def _token_groups(trace_id: int, first_pos: int, tokens: TokenArrays) -> Iterator[pa.RecordBatch]:
    total, turn_T = len(tokens.token_id), tokens.turn
    for start in range(0, total, TOKEN_ROWS):
        part = slice(start, min(start + TOKEN_ROWS, total))
        pos_R = np.arange(first_pos + part.start, first_pos + part.stop, dtype=np.int32)
        columns = [
            pa.array(np.full(len(pos_R), trace_id, np.int64)),
            pa.array(pos_R),
            pa.array(tokens.token_id[part].astype(np.int32, copy=False)),
            pa.array(tokens.text[part], pa.string()),
            pa.array(tokens.start[part].astype(np.int32, copy=False)),
            pa.array(tokens.end[part].astype(np.int32, copy=False)),
            pa.array(tokens.phase[part], pa.string()),
            _nullable(tokens.logprob[part]),
            _nullable(tokens.entropy[part]),
            pa.array(turn_T[part].astype(np.int32, copy=False), mask=turn_T[part] < 0),
            pa.array(tokens.nonfinite[part], mask=~tokens.nonfinite[part]),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=captured.TOKENS.arrow)


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
    return pa.RecordBatch.from_arrays(columns, schema=arrow)


def _choice_groups(
    trace_id: int, choices: ChoiceArrays, arrow: pa.Schema, share: LayerShare
) -> Iterator[pa.RecordBatch] | None:
    """Rows that hold a choice and null in all else; None if there are none."""
    layers, rows, _ = choices.expert_ids.shape
    if not layers * rows:
        return None
    cut = share.cut(layers)
    parts = grid.grids(trace_id, choices.layers, choices.first, rows, grid.ROUTING, cut)
    return (_choice_batch(part, choices, arrow) for part in parts)


def _choice_batch(part: Grid, choices: ChoiceArrays, arrow: pa.Schema) -> pa.RecordBatch:
    ids = arrow.field("expert_ids").type
    id_type = ids.value_type.to_pandas_dtype()
    expert_ids_Rk = part.rows(choices.expert_ids).astype(id_type, copy=False)
    columns = [*part.keys(), fixed_lists(expert_ids_Rk, ids)]
    unknown = [pa.nulls(len(expert_ids_Rk), field.type) for field in list(arrow)[len(columns) :]]
    return pa.RecordBatch.from_arrays([*columns, *unknown], schema=arrow)


def _batch(part: Grid, arrays: list[NDArray], arrow: pa.Schema) -> pa.RecordBatch:
    """Keys and then one list column for each array [layers, T, width]."""
    lists = [
        fixed_lists(float32(part.rows(a)), arrow.field(3 + i).type) for i, a in enumerate(arrays)
    ]
    return pa.RecordBatch.from_arrays([*part.keys(), *lists], schema=arrow)


def _nullable(values_R: NDArray) -> pa.Array:
    """Floats with null for NaN."""
    return pa.array(float32(values_R), mask=np.isnan(values_R))
