"""What the pages ask of a store, as SQL.

What is asked of all traces goes to the catalogue, what is asked of one to its files. All values
enter as parameters. The few column names that enter as text come from the tables of
:mod:`ringlens.app.store.grid`, never from the browser.

Shape letters: T tokens of a trace, S sparse layers, k experts a token, H heads.
"""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from ringlens.app.shared.catalogue import Catalogue
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
    """Traces, tokens, verdicts and runs of the whole store, in one row.

    A replay tells again of a trace that was told before. So it is counted apart: ``replays`` and
    ``replay_tokens`` are of replays, all else is of originals, unless the store holds replays
    alone: then ``only_replays`` says that all else is of them.
    """
    query = """
        with counted as (
            select *, source_trace_id is not null as is_replay,
                   bool_and(source_trace_id is not null) over () as only_replays
            from traces)
        select count(*) filter (is_replay = only_replays) as traces,
               coalesce(sum(n_prompt) filter (is_replay = only_replays), 0)::bigint as n_prompt,
               coalesce(sum(n_think) filter (is_replay = only_replays), 0)::bigint as n_think,
               coalesce(sum(n_answer) filter (is_replay = only_replays), 0)::bigint as n_answer,
               count(*) filter (correct and is_replay = only_replays) as correct,
               count(correct) filter (is_replay = only_replays) as judged,
               count(*) filter (is_replay) as replays,
               coalesce(sum(n_prompt + n_think + n_answer) filter (is_replay), 0)::bigint
                   as replay_tokens,
               coalesce(bool_or(only_replays), false) as only_replays,
               count(*) as all_traces,
               (select count(*) from runs) as runs,
               (select count(*) from runs where finished is null) as unfinished
        from counted"""
    return rows(catalogue, query)[0]


def runs(catalogue: Catalogue) -> list[Row]:
    """All runs, newest first, each with its number of traces, verdicts and tokens."""
    query = """
        with by_run as (
            select run_id, count(*) as traces, count(source_trace_id) as replays,
                   count(*) filter (correct) as correct,
                   count(correct) as judged,
                   sum(n_prompt + n_think + n_answer)::bigint as tokens
            from traces group by run_id)
        select runs.*, coalesce(traces, 0) as traces, coalesce(replays, 0) as replays,
               coalesce(correct, 0) as correct,
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
        where: Condition made by :mod:`ringlens.app.store.grid`, which also made ``params``.
        order: Its ``order by`` list.
        params: Parameters of the condition.
        start: First row.
        end: Row after the last.
    """
    query = f"""
        with grid as (
            select trace_id, run_id, source_trace_id, task, prompt, answer, correct, n_think,
                   finish_reason, n_prompt + n_think + n_answer as tokens, entropy
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


def recorded(store: Store, table: str, trace_id: int, column: str | None = None) -> bool:
    """Whether a trace has rows in a table that a run may leave out, or values in a column of it."""
    known = "true" if column is None else f'"{column}" is not null'
    query = f"select 1 from {_of_trace(store, table, trace_id)} where {known} limit 1"
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
    """Mean over the sparse layers of the router margin [T]; infinite margins do not enter.

    Null at tokens without a row, as all others that go by token.
    """
    query = f"""
        with known as (
            select pos, avg(margin) filter (isfinite(margin)) as margin
            from {_of_trace(store, "routing", trace_id)} group by pos)
        select margin from {_of_trace(store, "tokens", trace_id)} left join known using (pos)
        order by pos"""
    return frame(store, query, {"trace_id": trace_id})


def layer_experts(store: Store, trace_id: int, layer: int) -> pa.Table:
    """The heaviest expert of each token at one layer, and its share of the weight [T]."""
    query = f"""
        select expert_ids[1] as expert, weights[1] / list_sum(weights) as share
        from {_of_trace(store, "tokens", trace_id)} left join
            (select pos, expert_ids, weights from {_of_trace(store, "routing", trace_id)}
             where layer = $layer) using (pos)
        order by pos"""
    return frame(store, query, {"trace_id": trace_id, "layer": layer})


def expert_map(store: Store, trace_id: int, stride: int) -> pa.Table:
    """The heaviest expert at each sparse layer of every ``stride``-th token [S, T / stride]."""
    query = f"""
        with rows as (
            select layer, pos, expert_ids[1] as expert
            from {_of_trace(store, "routing", trace_id)} where pos % $stride = 0)
        select layer, expert
        from (select distinct layer from rows)
        cross join (select pos from {_of_trace(store, "tokens", trace_id)} where pos % $stride = 0)
        left join rows using (layer, pos) order by layer, pos"""
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
