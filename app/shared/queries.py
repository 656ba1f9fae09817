"""What several pages ask of a store, as SQL; what one page asks stands beside it.

What is asked of all traces goes to the catalogue, what is asked of one to its files. All values
enter as parameters. The few column names that enter as text come from tables of ours, never from
the browser.
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
    """Query, and return a list of dictionaries; for small results."""
    return frame(tables, query, params).to_pylist()


def frame(tables: Tables, query: str, params: Params | None = None) -> pa.Table:
    """Query, and return an Arrow table."""
    return tables.sql(query, params or {}).to_arrow_table()


def version(store: Store, *predicates: str) -> int:
    """Return a number that changes with every commit of traces; reads the manifest alone.

    Args:
        store: The store.
        *predicates: Predicates over tokens; if one may ask for labels that people gave, the number
            changes with what people say as well.
    """
    asked = any("label" in predicate.lower() for predicate in predicates)
    files = store.snapshot()
    names = ("runs", "traces", *(("annotations",) if asked else ()))
    return hash(tuple(file.path for name in names for file in files.get(name, ())))


def version_of_said(store: Store) -> int:
    """Return a number that changes whenever somebody annotates; reads the manifest alone."""
    return hash(tuple(file.path for file in store.snapshot().get("annotations", ())))


def runs(catalogue: Catalogue) -> list[Row]:
    """Return all runs, newest first, each with its number of traces, verdicts and tokens."""
    query = """
        with by_run as (
            select run_id, count(*) as traces, count(source_trace_id) as replays,
                   count(*) filter (finish_reason <> 'running') as ended,
                   count(*) filter (correct) as correct,
                   count(correct) as judged,
                   sum(n_prompt + n_think + n_answer)::bigint as tokens
            from traces group by run_id)
        select runs.*, coalesce(traces, 0) as traces, coalesce(replays, 0) as replays,
               coalesce(ended, 0) as ended,
               coalesce(correct, 0) as correct,
               coalesce(judged, 0) as judged, coalesce(tokens, 0) as tokens
        from runs left join by_run using (run_id)
        order by started desc, run_id"""
    return rows(catalogue, query)


def run(catalogue: Catalogue, run_id: str) -> Row:
    """Return one run's row of ``runs``. Raises NotInStoreError if there is none."""
    found = rows(catalogue, "select * from runs where run_id = $run_id", {"run_id": run_id})
    if not found:
        raise NotInStoreError(f"no run {run_id[:60]!r} in the store; open / for the runs it holds")
    return found[0]


def trace_head(catalogue: Catalogue, trace_id: int) -> Row | None:
    """Return all about a trace but text and arrays; None if unknown.

    Beside its row of ``traces``: its neighbours by id, and the last sample of its problem.
    """
    query = """
        select *, (select max(trace_id) from traces where trace_id < $trace_id) as previous,
               (select min(trace_id) from traces where trace_id > $trace_id) as next,
               (select max(other.sample) from traces as other
                where other.run_id = traces.run_id
                      and other.problem_id = traces.problem_id) as last_sample
        from traces where trace_id = $trace_id"""
    found = rows(catalogue, query, {"trace_id": trace_id})
    return found[0] if found else None


def n_tokens(head: Row) -> int:
    """Return the number of tokens of a trace, from its row of ``traces``."""
    return int(head["n_prompt"] + head["n_think"] + head["n_answer"])


def of_trace(store: Store, table: str, trace_id: int) -> str:
    """Return SQL of a table's rows of trace ``$trace_id``; opens only files that can hold it."""
    files = store.files(table, trace_id, trace_id)
    return f"(select * from {store.scan(table, files)} where trace_id = $trace_id)"


def recorded(store: Store, table: str, trace_id: int, column: str | None = None) -> bool:
    """Return whether a trace has rows in an optional table, or values in a column of it."""
    known = "true" if column is None else f'"{column}" is not null'
    query = f"select 1 from {of_trace(store, table, trace_id)} where {known} limit 1"
    return bool(rows(store, query, {"trace_id": trace_id}))


def expert_facts(store: Store, run_id: str, layer: int, expert: int) -> Row | None:
    """Read the group and selection bias of one expert; None if the run does not have it."""
    query = """
        select "group", bias from experts
        where run_id = $run_id and layer = $layer and expert = $expert"""
    found = rows(store, query, {"run_id": run_id, "layer": layer, "expert": expert})
    return found[0] if found else None
