"""Results of probes on thoughts, as frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.errors import StoreError
from ringlens.problem import Problem, from_row

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

SETTINGS = "settings"
"""Key of the row that says with which settings a trace was probed."""


def results(store: Source, probe: str, run_id: str | None = None) -> pd.DataFrame:
    """Read the results of a probe.

    Args:
        store: The store.
        probe: Its name.
        run_id: The run; None for all runs.

    Returns:
        The rows of ``probes`` in order of trace, step, changed step, position, layer and unit.

    Raises:
        StoreError: There are none.
    """
    where = "" if run_id is None else " and run_id = ?"
    found = store.sql(
        f"select * from probes where probe = ?{where} "
        "order by trace_id, step nulls first, changed_step, pos, layer, unit, key",
        [probe] if run_id is None else [probe, run_id],
    ).df()
    if found.empty:
        raise StoreError(
            f"the store holds no results of the probe {probe!r:.40}; measure some with `ringlens "
            f"probe {probe:.40} MODEL {store.address}`."
        )
    return found


def about_steps(store: Source, trace_ids: list[int]) -> pd.DataFrame:
    """What is known of the steps of some traces: problem, step, role, text."""
    listed = ", ".join(map(str, trace_ids))
    return store.sql(
        f"""select s.trace_id, t.problem_id, t.task, t.correct as right_in_the_end, s.step,
        s.role, s.is_backtrack, s.token_end - s.token_start as tokens, s.token_start, s.text
        from steps s join traces t using (trace_id)
        join (select trace_id, pos from tokens where phase = 'think') k
          on k.trace_id = s.trace_id and k.pos = s.token_start
        where s.trace_id in ({listed}) order by s.trace_id, s.step"""
    ).df()


def problems_of(store: Source, trace_ids: Iterable[int]) -> dict[int, Problem]:
    """The problem of each of some traces, as far as the store keeps it."""
    listed = ", ".join(map(str, trace_ids))
    rows = store.sql(
        "select trace_id, problem_id, task, prompt, expected from traces "
        f"where trace_id in ({listed}) order by trace_id"
    ).to_arrow_table()
    return {row["trace_id"]: from_row(row) for row in rows.to_pylist()}
