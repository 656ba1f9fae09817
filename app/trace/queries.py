"""What the trace page asks of a store, as SQL.

Shape letters: T tokens of a trace, S sparse layers, k experts a token, H heads.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ringlens.app.shared.queries import frame, of_trace, rows
from ringlens.store import Store


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


RECEIVED = """
with paid as (
    select layer, head, pos, unnest(positions) as place, unnest(weights) as weight
    from {attention} where trace_id = {trace_id}),
heads as (select count(*) as n from (select distinct layer, head from paid))
select place as pos, sum(weight) / any_value(n) as received
from paid, heads where place < pos group by place order by place"""
"""Attention that later tokens pay to each token, summed; mean of the recorded heads."""


def received(store: Store, trace_id: int) -> pa.Table:
    """Return the attention that each token receives from later ones; none of others' rows."""
    source = of_trace(store, "attention", trace_id)
    query = RECEIVED.format(attention=source, trace_id="$trace_id")
    return frame(store, query, {"trace_id": trace_id})


def attention_held(store: Store, trace_id: int) -> float:
    """Return the share of all attention of the recorded heads that the recorded positions hold."""
    query = f"select avg(list_sum(weights)) as held from {of_trace(store, 'attention', trace_id)}"
    return float(rows(store, query, {"trace_id": trace_id})[0]["held"])


def map_size(store: Store, trace_id: int) -> tuple[int, int]:
    """Return the experts of a layer, and the steps of a trace."""
    query = f"""
        select (select experts from runs join traces using (run_id)
                where trace_id = $trace_id) as experts,
               (select count(*) from {of_trace(store, "steps", trace_id)}) as steps"""
    found = rows(store, query, {"trace_id": trace_id})[0]
    return int(found["experts"] or 0), int(found["steps"])


def routing_layers(store: Store, trace_id: int) -> list[int]:
    """Return the layers whose routing was recorded for a trace."""
    query = f"""
        select distinct layer from {of_trace(store, "routing", trace_id)} where pos < 64
        order by layer"""
    return [row["layer"] for row in rows(store, query, {"trace_id": trace_id})]


BELIEF = """
select told.step, sum(told.value) as p_final,
       any_value(coalesce(token_end, (select min(token_start) from {steps} as every
                                      where every.trace_id = {trace_id}))) as token_end
from {probes} as told left join {steps} as steps
    on steps.trace_id = told.trace_id and steps.step = told.step
where told.probe = 'belief' and told.key = 'p' and told.trace_id = {trace_id}
      and told.unit in ({final})
group by told.step order by told.step"""
"""How probable the answer in the end was after each step; -1 is the place before the first."""


def belief(store: Store, trace_id: int, final: list[int]) -> list[dict[str, Any]]:
    """Return how probable some candidates together were after each step that was asked."""
    query = BELIEF.format(
        probes=of_trace(store, "probes", trace_id),
        steps=of_trace(store, "steps", trace_id),
        trace_id="$trace_id",
        final=", ".join(map(str, final)),
    )
    return rows(store, query, {"trace_id": trace_id})


def candidates(store: Store, trace_id: int) -> dict[int, str]:
    """Return the candidate answers of the probe `belief` about a trace, as JSON by number."""
    query = f"""
        select unit, json from {of_trace(store, "probes", trace_id)}
        where probe = 'belief' and key = 'candidate' order by unit"""
    return {row["unit"]: row["json"] for row in rows(store, query, {"trace_id": trace_id})}


def likeliest(store: Store, trace_id: int) -> dict[int, int]:
    """Return the number of the most probable candidate after each step."""
    query = f"""
        select step, arg_max(unit, value) as unit
        from {of_trace(store, "probes", trace_id)}
        where probe = 'belief' and key = 'p' group by step"""
    return {row["step"]: row["unit"] for row in rows(store, query, {"trace_id": trace_id})}
