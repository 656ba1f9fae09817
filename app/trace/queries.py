"""What the trace page asks of a store, as SQL.

Shape letters: T tokens of a trace, S sparse layers, k experts a token, H heads.
"""

from __future__ import annotations

import pyarrow as pa

from ringlens.app.shared.queries import frame, of_trace, rows
from ringlens.store import Store
from ringlens.store.schema.table import Table
from ringlens.store.schema.views import quote


def text(store: Store, trace_id: int) -> str | None:
    """Return the whole text of a trace; None if it is unknown."""
    query = f"select text from {of_trace(store, 'traces', trace_id)}"
    found = rows(store, query, {"trace_id": trace_id})
    return found[0]["text"] if found else None


def tokens(store: Store, trace_id: int) -> pa.Table:
    """Return the tokens of a trace in order: id, span, phase, logprob, entropy [T]."""
    query = f"""
        select token_id, "start", "end", phase, logprob, entropy
        from {of_trace(store, "tokens", trace_id)} order by pos"""
    return frame(store, query, {"trace_id": trace_id})


def mean_margin(store: Store, trace_id: int) -> pa.Table:
    """Return the mean router margin over sparse layers [T]; infinite margins do not enter.

    Null at tokens without a row, as all others that go by token.
    """
    query = f"""
        with known as (
            select pos, avg(margin) filter (isfinite(margin)) as margin
            from {of_trace(store, "routing", trace_id)} group by pos)
        select margin from {of_trace(store, "tokens", trace_id)} left join known using (pos)
        order by pos"""
    return frame(store, query, {"trace_id": trace_id})


def layer_experts(store: Store, trace_id: int, layer: int) -> pa.Table:
    """Return the heaviest expert of each token at one layer, and its share of the weight [T]."""
    query = f"""
        select expert_ids[1] as expert, weights[1] / list_sum(weights) as share
        from {of_trace(store, "tokens", trace_id)} left join
            (select pos, expert_ids, weights from {of_trace(store, "routing", trace_id)}
             where layer = $layer) using (pos)
        order by pos"""
    return frame(store, query, {"trace_id": trace_id, "layer": layer})


def expert_map(store: Store, trace_id: int, stride: int) -> pa.Table:
    """Return the heaviest expert by layer of every ``stride``-th token [S, T / stride]."""
    query = f"""
        with rows as (
            select layer, pos, expert_ids[1] as expert
            from {of_trace(store, "routing", trace_id)} where pos % $stride = 0)
        select layer, expert
        from (select distinct layer from rows)
        cross join (select pos from {of_trace(store, "tokens", trace_id)} where pos % $stride = 0)
        left join rows using (layer, pos) order by layer, pos"""
    return frame(store, query, {"trace_id": trace_id, "stride": stride})


def routing_block(store: Store, trace_id: int, start: int, end: int) -> pa.Table:
    """Return routing records of tokens ``start`` to ``end``, in order (layer, pos)."""
    query = f"""
        select layer, pos, expert_ids, weights, affinities, margin, group_margin,
               bias_flips, group_flips, entropy
        from {of_trace(store, "routing", trace_id)} where pos >= $start and pos < $end
        order by layer, pos"""
    return frame(store, query, {"trace_id": trace_id, "start": start, "end": end})


def statistics_block(store: Store, trace_id: int, table: Table, start: int, end: int) -> pa.Table:
    """Return an instrument's rows of tokens ``start`` to ``end``, in order (layer, pos)."""
    columns = ", ".join(quote(column.name) for column in table.values)
    query = f"""
        select layer, pos, {columns}
        from {of_trace(store, table.name, trace_id)} where pos >= $start and pos < $end
        order by layer, pos"""
    return frame(store, query, {"trace_id": trace_id, "start": start, "end": end})


def attention_heads(store: Store, trace_id: int) -> dict[int, list[int]]:
    """Return the heads, by layer, whose heaviest positions were recorded for a trace."""
    query = f"""
        select distinct layer, head from {of_trace(store, "attention", trace_id)}
        order by layer, head"""
    found: dict[int, list[int]] = {}
    for row in rows(store, query, {"trace_id": trace_id}):
        found.setdefault(row["layer"], []).append(row["head"])
    return found


def attention_block(
    store: Store, trace_id: int, layer: int, head: int, start: int, end: int
) -> pa.Table:
    """Return the heaviest positions of one head for tokens ``start`` to ``end``, in order."""
    query = f"""
        select pos, positions, weights from {of_trace(store, "attention", trace_id)}
        where layer = $layer and head = $head and pos >= $start and pos < $end order by pos"""
    wanted = {"trace_id": trace_id, "layer": layer, "head": head, "start": start, "end": end}
    return frame(store, query, wanted)
