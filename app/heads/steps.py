"""How much attention each step of a trace pays to itself and to each earlier one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ringlens.app.shared import queries
from ringlens.app.shared.made import made
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store

Row = dict[str, Any]

SAID = 240
"""Characters of a step that are sent."""


def listed(store: Store, trace_id: int) -> list[Row]:
    """List the steps whose attention is known: number, role, first token, text."""
    query = f"""
        select step, role, token_start, token_end, left(text, {SAID}) as text from steps
        where trace_id = $trace_id and step in
            (select step_from from head_steps where trace_id = $trace_id)
        order by step"""
    return queries.rows(store, query, {"trace_id": trace_id})


def heads_kept(store: Store, trace_id: int) -> bool:
    """Return whether pairs of steps are kept of each head, and not of their mean alone."""
    query = "select 1 from head_steps where trace_id = $trace_id and head is not null limit 1"
    return bool(queries.rows(store, query, {"trace_id": trace_id}))


def matrix(store: Store, trace_id: int, layer: int | None, head: int | None) -> Row:
    """Encode the attention between steps.

    Args:
        store: The store.
        trace_id: The trace.
        layer: The layer; None for the mean over all layers and heads.
        head: The head; None for the mean over those of the layer.

    Returns:
        ``numbers`` of the steps; ``mass`` [steps, steps], from row to column, NaN above the
        diagonal; ``made``.
    """
    sql = _sql(trace_id, layer, head)
    rows = queries.rows(store, sql)
    numbers = sorted({row["step_from"] for row in rows})
    at = {number: i for i, number in enumerate(numbers)}
    mass_SS = np.full((len(numbers), len(numbers)), np.nan)
    for row in rows:
        mass_SS[at[row["step_from"]], at[row["step_to"]]] = row["mass"]
    return {
        "numbers": numbers,
        "mass": encode(mass_SS, "f4"),
        "made": made(store, sql, f'found = store.sql("""{sql}""").df()'),
    }


def _sql(trace_id: int, layer: int | None, head: int | None) -> str:
    one = "head is null" if head is None else f"head = {head}"
    if layer is not None:
        return f"""select step_from, step_to, mass from head_steps
where trace_id = {trace_id} and layer = {layer} and {one}
order by step_from, step_to"""
    return f"""select step_from, step_to, avg(mass) as mass from head_steps
where trace_id = {trace_id} and head is null
group by all order by step_from, step_to"""
