"""Rows of the list of traces, and the neighbours of one of them, as SQL."""

from __future__ import annotations

from dataclasses import dataclass

from ringlens.app.listing.wanted import Wanted
from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.queries import Params, Row, rows

_PLAIN = """
    select trace_id, run_id, source_trace_id, task, prompt, answer, correct, n_think, finish_reason
    from traces"""
_GRID = """
    select trace_id, run_id, source_trace_id, task, prompt, answer, correct, n_think,
           finish_reason, n_prompt + n_think + n_answer as tokens, entropy, labels
    from traces left join tokens using (trace_id) left join annotations using (trace_id)"""


@dataclass(frozen=True)
class Place:
    """Where a trace stands in the list.

    Attributes:
        number: Its place, the first is 1; None if the list does not hold it.
        length: Traces of the list.
        previous: Trace before it; of one that is not in the list None.
        next: Trace after it.
    """

    number: int | None
    length: int
    previous: int | None
    next: int | None


def traces_page(
    catalogue: Catalogue, where: str, order: str, params: Params, start: int, end: int
) -> tuple[list[Row], int]:
    """Return rows ``start`` to ``end`` of the list of traces, and how many there are in all.

    Args:
        catalogue: The store's small tables.
        where: Condition made by :mod:`ringlens.app.listing.conditions`, which also made ``params``.
        order: Its ``order by`` list.
        params: Parameters of the condition.
        start: First row.
        end: Row after the last.
    """
    query = f"""
        with grid as ({_GRID})
        select *, count(*) over () as found from grid
        where {where} order by {order} limit $limit offset $offset"""
    found = rows(catalogue, query, {**params, "limit": end - start, "offset": start})
    totals = [row.pop("found") for row in found]
    if not totals and start:  # rows of a longer list, before it was filtered
        count = f"with grid as ({_GRID}) select count(*) as found from grid where {where}"
        totals = [row["found"] for row in rows(catalogue, count, params)]
    return found, totals[0] if totals else 0


def place(catalogue: Catalogue, wanted: Wanted, trace_id: int) -> Place:
    """Find a trace in the list that an address asks for."""
    asked = wanted.condition
    # The catalogue reads the tables that a query names, and a file of tokens or annotations may be
    # damaged: that must not keep a trace from being shown.
    named = asked.sql + wanted.order
    grid = _GRID if any(name in named for name in ("tokens", "entropy", "labels")) else _PLAIN
    query = f"""
        with grid as ({grid}), listed as (
            select trace_id, row_number() over by_order as number, count(*) over () as length,
                   lag(trace_id) over by_order as previous, lead(trace_id) over by_order as next
            from grid where {asked.sql} window by_order as (order by {wanted.order}))
        select * from listed where trace_id = $trace_id
        union all select null, null, count(*), null, null from listed
        order by number nulls last limit 1"""
    found = rows(catalogue, query, {**asked.params, "trace_id": trace_id})[0]
    return Place(found["number"], found["length"], found["previous"], found["next"])
