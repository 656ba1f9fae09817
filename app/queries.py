"""What the pages ask of a store, as SQL.

What is asked of all traces goes to the catalogue, what is asked of one to its files. All values
enter as parameters. The few column names that enter as text come from the tables of
:mod:`ringlens.app.grid`, never from the browser.

Shape letters: T tokens of a trace, S sparse layers, k experts a token, H heads.
"""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from ringlens.app.catalogue import Catalogue
from ringlens.errors import NotInStoreError
from ringlens.store import Store

Row = dict[str, Any]
Params = dict[str, Any]


class Tables(Protocol):
    """What answers SQL: a store, or the catalogue of its small tables."""

    def sql(self, query: str, params: Params) -> Any:
        """A DuckDB relation."""


def rows(tables: Tables, query: str, params: Params | None = None) -> list[Row]:
    """The result as a list of dictionaries; for small results."""
    return frame(tables, query, params).to_pylist()


def frame(tables: Tables, query: str, params: Params | None = None) -> pa.Table:
    """The result as an Arrow table."""
    return tables.sql(query, params or {}).to_arrow_table()


def version(store: Store) -> int:
    """A number that changes with every commit; costs one look at the manifest, no query."""
    files = store.snapshot()
    return hash(tuple(file.path for name in ("runs", "traces") for file in files.get(name, ())))


# --- the store ------------------------------------------------------------------------------


def totals(catalogue: Catalogue) -> Row:
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
    return rows(catalogue, query)[0]


def runs(catalogue: Catalogue) -> list[Row]:
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
    return rows(catalogue, query)


def grid_tops(catalogue: Catalogue) -> Row:
    """The largest values of the grid's columns that are drawn as bars; None without traces."""
    query = """
        select (select max(n_think) from traces) as n_think,
               (select max(entropy) from tokens) as entropy"""
    return rows(catalogue, query)[0]


def traces_page(
    catalogue: Catalogue, where: str, order: str, params: Params, start: int, end: int
) -> tuple[list[Row], int]:
    """Rows ``start`` to ``end`` of the traces grid, and how many there are in all.

    Args:
        catalogue: The store's small tables.
        where: Condition made by :mod:`ringlens.app.grid`, which also made ``params``.
        order: Its ``order by`` list.
        params: Parameters of the condition.
        start: First row.
        end: Row after the last.
    """
    query = f"""
        with grid as (
            select trace_id, run_id, task, prompt, answer, correct, n_think, finish_reason,
                   n_prompt + n_think + n_answer as tokens, entropy
            from traces left join tokens using (trace_id))
        select *, count(*) over () as found from grid
        where {where} order by {order} limit $limit offset $offset"""
    found = rows(catalogue, query, {**params, "limit": end - start, "offset": start})
    total = found[0].pop("found") if found else 0
    for row in found[1:]:
        row.pop("found")
    return found, total


def _of_trace(store: Store, table: str, trace_id: int) -> str:
    """A table's rows of the trace ``$trace_id``; files that cannot hold it are not opened."""
    files = store.files(table, trace_id, trace_id)
    return f"(select * from {store.scan(table, files)} where trace_id = $trace_id)"


# --- one trace ------------------------------------------------------------------------------


def trace_head(catalogue: Catalogue, trace_id: int) -> Row | None:
    """All about a trace but its text and arrays, with its neighbours by id; None if unknown."""
    query = """
        select *, (select max(trace_id) from traces where trace_id < $trace_id) as previous,
               (select min(trace_id) from traces where trace_id > $trace_id) as next
        from traces where trace_id = $trace_id"""
    found = rows(catalogue, query, {"trace_id": trace_id})
    return found[0] if found else None


def text(store: Store, trace_id: int) -> str | None:
    """The whole text of a trace; None if it is unknown."""
    query = f"select text from {_of_trace(store, 'traces', trace_id)}"
    found = rows(store, query, {"trace_id": trace_id})
    return found[0]["text"] if found else None


def n_tokens(head: Row) -> int:
    """Tokens of a trace, from its row of ``traces``."""
    return int(head["n_prompt"] + head["n_think"] + head["n_answer"])


def recorded(store: Store, table: str, trace_id: int) -> bool:
    """Whether a trace has rows in a table that a run may leave out."""
    query = f"select 1 from {_of_trace(store, table, trace_id)} limit 1"
    return bool(rows(store, query, {"trace_id": trace_id}))


def run(catalogue: Catalogue, run_id: str) -> Row:
    """One run's row of ``runs``. Raises NotInStoreError without one."""
    found = rows(catalogue, "select * from runs where run_id = $run_id", {"run_id": run_id})
    if not found:
        raise NotInStoreError(f"no run {run_id[:60]!r} in the store; open / for the runs it holds")
    return found[0]


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


# --- one expert -----------------------------------------------------------------------------


def expert_facts(store: Store, run_id: str, layer: int, expert: int) -> Row | None:
    """Group and selection bias of one expert; None where the run does not have it."""
    query = """
        select "group", bias from experts
        where run_id = $run_id and layer = $layer and expert = $expert"""
    found = rows(store, query, {"run_id": run_id, "layer": layer, "expert": expert})
    return found[0] if found else None
