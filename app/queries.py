"""Every question the dashboard asks of a store, as SQL; nothing else in ``app`` writes SQL.

All values enter as parameters. The few column names that enter as text come from the tables below,
never from the browser.

Shape letters: T tokens of a trace, S sparse layers, k experts a token, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ringlens.store import Store
from ringlens.store.schema import PHASES

Params = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """Which traces a question is about: one run, or one trace of it."""

    run_id: str
    trace_id: int | None = None

    @property
    def sql(self) -> str:
        """Condition on a column ``trace_id`` (unqualified)."""
        if self.trace_id is not None:
            return "trace_id = $trace_id"
        return "trace_id in (select trace_id from traces where run_id = $run_id)"

    @property
    def params(self) -> Params:
        """Parameters of :attr:`sql`."""
        if self.trace_id is not None:
            return {"trace_id": self.trace_id}
        return {"run_id": self.run_id}


def rows(store: Store, query: str, params: Params | None = None) -> list[dict[str, Any]]:
    """The result as a list of dictionaries; for small results."""
    return frame(store, query, params).to_pylist()


def frame(store: Store, query: str, params: Params | None = None) -> pa.Table:
    """The result as an Arrow table."""
    return store.sql(query, params or {}).to_arrow_table()


def version(store: Store) -> int:
    """A number that changes with every commit; costs one look at the manifest, no query."""
    return hash(tuple((f.path, f.bytes) for name in ("runs", "traces") for f in store.files(name)))


# --- the store ------------------------------------------------------------------------------


def totals(store: Store) -> dict[str, Any]:
    """Traces, tokens by phase, verdicts and runs of the whole store, in one row."""
    query = """
        select count(*) as traces,
               coalesce(sum(n_prompt), 0)::bigint as n_prompt,
               coalesce(sum(n_think), 0)::bigint as n_think,
               coalesce(sum(n_answer), 0)::bigint as n_answer,
               count(*) filter (correct) as correct,
               count(correct) as judged,
               (select count(*) from runs) as runs,
               (select count(*) from runs where finished is null) as unfinished
        from traces"""
    return rows(store, query)[0]


def runs(store: Store) -> list[dict[str, Any]]:
    """All runs, newest first, each with its number of traces, verdicts and tokens."""
    query = """
        with by_run as (
            select run_id, count(*) as traces, count(*) filter (correct) as correct,
                   count(correct) as judged,
                   sum(n_prompt + n_think + n_answer)::bigint as tokens
            from traces group by run_id)
        select runs.*, coalesce(traces, 0) as traces, coalesce(correct, 0) as correct,
               coalesce(judged, 0) as judged, coalesce(tokens, 0) as tokens
        from runs left join by_run using (run_id)
        order by started desc, run_id"""
    return rows(store, query)


# Mean entropy of each trace over what the model wrote.
_BY_TRACE = """
    select trace_id, avg(entropy) filter (phase <> 'prompt') as entropy
    from tokens group by trace_id"""


def grid_tops(store: Store) -> dict[str, Any]:
    """The largest values of the grid's columns that are drawn as bars; None without traces."""
    query = f"""
        select (select max(n_think) from traces) as n_think,
               (select max(entropy) from ({_BY_TRACE})) as entropy"""
    return rows(store, query)[0]


def traces_page(
    store: Store, where: str, order: str, params: Params, start: int, end: int
) -> tuple[list[dict[str, Any]], int]:
    """Rows ``start`` to ``end`` of the traces grid, and how many there are in all.

    Args:
        store: The store.
        where: Condition made by :mod:`ringlens.app.grid`, which also made ``params``.
        order: Its ``order by`` list.
        params: Parameters of the condition.
        start: First row.
        end: Row after the last.
    """
    query = f"""
        with by_trace as ({_BY_TRACE}),
        grid as (
            select trace_id, run_id, task, prompt, answer, correct, n_think, finish_reason,
                   n_prompt + n_think + n_answer as tokens, by_trace.entropy
            from traces left join by_trace using (trace_id))
        select *, count(*) over () as found from grid
        where {where} order by {order} limit $limit offset $offset"""
    found = rows(store, query, {**params, "limit": end - start, "offset": start})
    total = found[0].pop("found") if found else 0
    for row in found[1:]:
        row.pop("found")
    return found, total


def _of_trace(store: Store, table: str, trace_id: int) -> str:
    """A table's rows of the trace ``$trace_id``; files that cannot hold it are not opened."""
    files = store.files(table, trace_id, trace_id)
    return f"(select * from {store.scan(table, files)} where trace_id = $trace_id)"


# --- one trace ------------------------------------------------------------------------------


def trace_head(store: Store, trace_id: int) -> dict[str, Any] | None:
    """Everything about a trace but its arrays, with its neighbours by id; None if unknown."""
    query = """
        select * from (
            select *, lag(trace_id) over (order by trace_id) as previous,
                   lead(trace_id) over (order by trace_id) as next
            from traces)
        where trace_id = $trace_id"""
    found = rows(store, query, {"trace_id": trace_id})
    return found[0] if found else None


def n_tokens(head: dict[str, Any]) -> int:
    """Tokens of a trace, from its row of ``traces``."""
    return int(head["n_prompt"] + head["n_think"] + head["n_answer"])


def recorded(store: Store, table: str, trace_id: int) -> bool:
    """Whether a trace has rows in a table that a run may leave out."""
    query = f"select 1 from {_of_trace(store, table, trace_id)} limit 1"
    return bool(rows(store, query, {"trace_id": trace_id}))


def recorded_tables(store: Store, run_id: str) -> list[str]:
    """What a run says it recorded."""
    return list(run(store, run_id)["record"])


def run(store: Store, run_id: str) -> dict[str, Any]:
    """One run's row of ``runs``."""
    return rows(store, "select * from runs where run_id = $run_id", {"run_id": run_id})[0]


def tokens(store: Store, trace_id: int) -> pa.Table:
    """The tokens of a trace in order: id, span, phase, logprob, entropy [T]."""
    query = f"""
        select token_id, "start", "end", phase, logprob, entropy
        from {_of_trace(store, "tokens", trace_id)} order by pos"""
    return frame(store, query, {"trace_id": trace_id})


def mean_margin(store: Store, trace_id: int) -> pa.Table:
    """Mean over the sparse layers of the router margin [T]; infinite margins do not enter."""
    query = f"""
        select avg(margin) filter (isfinite(margin)) as margin
        from {_of_trace(store, "routing", trace_id)} group by pos order by pos"""
    return frame(store, query, {"trace_id": trace_id})


def layer_experts(store: Store, trace_id: int, layer: int) -> pa.Table:
    """The heaviest expert of each token at one layer, and its share of the weight [T]."""
    query = f"""
        select expert_ids[1] as expert, weights[1] / list_sum(weights) as share
        from {_of_trace(store, "routing", trace_id)} where layer = $layer order by pos"""
    return frame(store, query, {"trace_id": trace_id, "layer": layer})


def expert_map(store: Store, trace_id: int, stride: int) -> pa.Table:
    """The heaviest expert at each sparse layer of every ``stride``-th token [S, T / stride]."""
    query = f"""
        select layer, expert_ids[1] as expert
        from {_of_trace(store, "routing", trace_id)} where pos % $stride = 0 order by layer, pos"""
    return frame(store, query, {"trace_id": trace_id, "stride": stride})


def routing_block(store: Store, trace_id: int, start: int, end: int) -> pa.Table:
    """Routing records of tokens ``start`` to ``end`` on all layers, in order (layer, pos)."""
    query = f"""
        select layer, pos, expert_ids, weights, affinities, margin, group_margin,
               bias_flips, group_flips, entropy
        from {_of_trace(store, "routing", trace_id)} where pos >= $start and pos < $end
        order by layer, pos"""
    return frame(store, query, {"trace_id": trace_id, "start": start, "end": end})


def heads_block(store: Store, trace_id: int, start: int, end: int) -> pa.Table:
    """Head statistics of tokens ``start`` to ``end`` on all layers, in order (layer, pos)."""
    query = f"""
        select layer, pos, entropy, first_weight, previous_weight, output_norm
        from {_of_trace(store, "heads", trace_id)} where pos >= $start and pos < $end
        order by layer, pos"""
    return frame(store, query, {"trace_id": trace_id, "start": start, "end": end})


# --- usage of experts -----------------------------------------------------------------------


_PHASE_NUMBER = f"list_position({list(PHASES)!r}, phase) - 1"


def choices(store: Store, scope: Scope) -> pa.RecordBatchReader:
    """Every routing row of the scope: phase, layer, expert_ids, weights, bias_flips; streamed.

    Counting these with numpy takes about half the time of counting them by ``unnest`` in SQL.
    """
    query = f"""
        select phase, layer, expert_ids, weights, bias_flips
        from (select * from routing where {scope.sql})
        join (select trace_id, pos, {_PHASE_NUMBER} as phase from tokens where {scope.sql})
        using (trace_id, pos)"""
    return store.sql(query, scope.params).to_arrow_reader(200_000)


def tokens_by_phase(store: Store, scope: Scope) -> dict[str, int]:
    """Tokens of the scope in each phase that occurs."""
    query = f"select phase, count(*) as n from tokens where {scope.sql} group by phase"
    return {row["phase"]: row["n"] for row in rows(store, query, scope.params)}


# --- one expert -----------------------------------------------------------------------------

# Rows where the expert was chosen, with its weight as a share of the token's k weights.
_CHOSEN = """
    select trace_id, pos, weights[list_position(expert_ids, $expert)] / list_sum(weights) as weight
    from routing where layer = $layer and list_contains(expert_ids, $expert) and {scope}"""
_IN_PHASE = "($phase = 'all' or phase = $phase)"


def expert_tokens(
    store: Store, scope: Scope, layer: int, expert: int, phase: str, order: str, limit: int
) -> list[dict[str, Any]]:
    """The tokens an expert sees most.

    Args:
        store: The store.
        scope: Run or trace.
        layer: Layer of the expert.
        expert: Expert id.
        phase: 'all' or one of the phases.
        order: 'count', or 'share' for the tokens it sees the largest share of, which then must
            occur at least ten times in the scope (the limit of OLMoE, arXiv 2409.02060).
        limit: Rows at most.

    Returns:
        Rows of token_id, text, n (times chosen), occurrences, share (n / occurrences) and
        weight (mean share of the routing weight when chosen).
    """
    orders = {"count": "n desc, token_id", "share": "share desc, n desc, token_id"}
    query = f"""
        with seen as (
            select trace_id, pos, token_id, text from tokens where {scope.sql} and {_IN_PHASE}),
        chosen as ({_CHOSEN.format(scope=scope.sql)}),
        by_token as (
            select token_id, any_value(text) as text, count(*) as occurrences,
                   count(weight) as n, avg(weight) as weight
            from seen left join chosen using (trace_id, pos) group by token_id)
        select *, n / occurrences as share from by_token
        where n > 0 and occurrences >= $least order by {orders[order]} limit $limit"""
    least = 10 if order == "share" else 1
    params = {"layer": layer, "expert": expert, "phase": phase, "limit": limit, "least": least}
    return rows(store, query, {**scope.params, **params})


def expert_contexts(
    store: Store, scope: Scope, layer: int, expert: int, phase: str, limit: int, around: int = 9
) -> list[dict[str, Any]]:
    """The places where an expert weighs most, one for each token id.

    Returns:
        Rows of trace_id, pos, weight (share of the token's routing weight), and the text before,
        at and after the token (``around`` tokens on each side).
    """
    query = f"""
        with seen as (
            select trace_id, pos, token_id from tokens where {scope.sql} and {_IN_PHASE}),
        ranked as (
            select trace_id, pos, weight, row_number() over (
                       partition by token_id order by weight desc, trace_id, pos) as place
            from ({_CHOSEN.format(scope=scope.sql)}) join seen using (trace_id, pos)),
        best as (
            select * from ranked where place = 1
            order by weight desc, trace_id, pos limit $limit),
        around as (
            select best.trace_id, best.pos, weight, text, t.pos - best.pos as place
            from best join tokens t on t.trace_id = best.trace_id
             and t.pos between best.pos - $around and best.pos + $around)
        select trace_id, pos, any_value(weight) as weight,
               coalesce(string_agg(text, '' order by place) filter (place < 0), '') as before,
               any_value(text) filter (place = 0) as token,
               coalesce(string_agg(text, '' order by place) filter (place > 0), '') as after
        from around group by trace_id, pos order by weight desc, trace_id, pos"""
    params = {"layer": layer, "expert": expert, "phase": phase, "limit": limit, "around": around}
    return rows(store, query, {**scope.params, **params})


def expert_facts(store: Store, run_id: str, layer: int, expert: int) -> dict[str, Any] | None:
    """Group and selection bias of one expert; None where the run does not have it."""
    query = """
        select "group", bias from experts
        where run_id = $run_id and layer = $layer and expert = $expert"""
    found = rows(store, query, {"run_id": run_id, "layer": layer, "expert": expert})
    return found[0] if found else None
