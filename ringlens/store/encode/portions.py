"""The portion of a record that one file of a commit is made from.

A file holds one table, or a share of its layers, so little of a record has to be sent to the
process that writes it. Arrays are cut without copying.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from ringlens.store.encode.grid import LayerShare
from ringlens.store.schema.records import (
    ActedArrays,
    ChoiceArrays,
    HeadArrays,
    LayerArrays,
    RoutingArrays,
    TokenArrays,
    TraceRecord,
)
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table


def of_tokens(table: Table, record: TraceRecord, run: RunShape, share: LayerShare) -> TraceRecord:
    """Tokens, and those that are rewritten."""
    return replace(bare(record), tokens=record.tokens, rewritten=record.rewritten)


def of_routing(table: Table, record: TraceRecord, run: RunShape, share: LayerShare) -> TraceRecord:
    """The router record on the layers of the share."""
    return replace(bare(record), routing=_routing(record.routing, share))


def of_logits(table: Table, record: TraceRecord, run: RunShape, share: LayerShare) -> TraceRecord:
    """Router logits on the layers of the share."""
    logits_STE = record.router_logits
    if logits_STE is None:
        return bare(record)
    part = slice(*share.cut(len(logits_STE)))
    layers = record.layers_of_logits(run.sparse_layers)[part]
    return replace(bare(record), router_logits=logits_STE[part], logit_layers=layers)


def of_heads(table: Table, record: TraceRecord, run: RunShape, share: LayerShare) -> TraceRecord:
    """Statistics of heads on the layers of the share."""
    return replace(bare(record), heads=_heads(record.heads, share))


def of_head_blocks(
    table: Table, record: TraceRecord, run: RunShape, share: LayerShare
) -> TraceRecord:
    """The statistics that head blocks are computed from, on the layers of the share."""
    heads = _heads(record.head_blocks or record.heads, share)
    return replace(bare(record), head_blocks=heads)


def of_statistics(
    table: Table, record: TraceRecord, run: RunShape, share: LayerShare
) -> TraceRecord:
    """Arrays of one table on the layers of the share."""
    arrays = record.statistics.get(table.name)
    if arrays is None:
        return bare(record)
    part = slice(*share.cut(arrays.count))
    columns = {name: values[part] for name, values in arrays.columns.items()}
    return replace(bare(record), statistics={table.name: LayerArrays(arrays.layers[part], columns)})


def of_vectors(table: Table, record: TraceRecord, run: RunShape, share: LayerShare) -> TraceRecord:
    """Vectors."""
    return replace(bare(record), vectors=record.vectors)


def of_attention(
    table: Table, record: TraceRecord, run: RunShape, share: LayerShare
) -> TraceRecord:
    """Top attention."""
    return replace(bare(record), attention=record.attention)


def of_usage(record: TraceRecord) -> TraceRecord:
    """What expert usage is counted from: the router record and the phases of tokens."""
    part = bare(record)
    return replace(
        part, routing=record.routing, tokens=replace(part.tokens, phase=record.tokens.phase)
    )


def bare(record: TraceRecord) -> TraceRecord:
    """A record with the number of its tokens, but nothing that a table holds."""
    none = np.empty(0, np.float32)
    ids_T = record.tokens.token_id
    return replace(
        record,
        prompt="",
        text="",
        tokens=TokenArrays(ids_T, [], ids_T[:0], ids_T[:0], [], none, none),
        rewritten=None,
        routing=None,
        router_logits=None,
        heads=None,
        head_blocks=None,
        vectors=(),
        attention=None,
        statistics={},
        logit_layers=None,
    )


def _routing(
    routing: RoutingArrays | ChoiceArrays | None, share: LayerShare
) -> RoutingArrays | ChoiceArrays | None:
    if routing is None:
        return None
    part = slice(*share.cut(len(routing.layers)))
    if isinstance(routing, ChoiceArrays):
        return replace(routing, layers=routing.layers[part], expert_ids=routing.expert_ids[part])
    acted = None
    if (whole := routing.acted) is not None:
        acted = ActedArrays(*(getattr(whole, field.name)[part] for field in fields(ActedArrays)))
    names = [field.name for field in fields(RoutingArrays) if field.name != "acted"]
    return replace(routing, acted=acted, **{name: getattr(routing, name)[part] for name in names})


def _heads(heads: HeadArrays | None, share: LayerShare) -> HeadArrays | None:
    if heads is None:
        return None
    part = slice(*share.cut(len(heads.layers)))
    return HeadArrays(*(getattr(heads, field.name)[part] for field in fields(HeadArrays)))
