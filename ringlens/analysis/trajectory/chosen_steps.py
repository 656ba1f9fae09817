"""Steps that a predicate over tokens picks, which every trajectory is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.selections.selection import Selection, read, traces_of
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

THINK = "phase = 'think'"
"""What is selected where a predicate names no phase: a path goes through one phase."""


def of_thoughts(store: Source, where: str | None) -> Selection:
    """Read a predicate; where it names no phase, only thoughts are selected.

    Args:
        store: The store.
        where: A predicate over `token_context`; None for all thoughts.

    Raises:
        ConfigError: It is none, or pools replays or interventions; see `read`.
        StoreError: It selects no token.
    """
    selection = replace(read(store, where), sums="")
    if "phase" in selection.by:
        narrowed = THINK if where is None else f"{THINK} and ({where}\n)"
        selection = replace(selection, where=narrowed, by=())
    traces_of(store, selection)
    return selection


def steps_of(store: Source, selection: Selection) -> pd.DataFrame:
    """List the steps with selected tokens, in order of trace and step.

    Returns:
        A row per step: ``trace_id``, ``problem_id``, ``task``, ``correct``, ``step``, ``role``,
        ``is_backtrack``, ``is_hypothesis``, ``pos`` (its first selected token), ``tokens`` (how
        many are selected) and ``text``.

    Raises:
        StoreError: No selected token is in a step.
    """
    frame = store.sql(
        f"""with own as (
    select trace_id, step, min(pos) as pos, count(*) as tokens
    from token_context where ({selection.where}\n) and step is not null group by all)
select own.trace_id, problem_id, task, correct, step, role, is_backtrack, is_hypothesis,
       pos, tokens, steps.text
from own join steps using (trace_id, step) join traces on traces.trace_id = own.trace_id
order by own.trace_id, step"""
    ).df()
    if frame.empty:
        raise StoreError(
            f"no token selected by {selection.where!r:.200} is in a step; cut the traces into "
            f"steps with `ringlens steps {store.address}`, or widen the selection."
        )
    return frame
