"""Taking up a run that was interrupted: what of its tasks is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ringlens.observe.buffer import Task
from ringlens.store import Store
from ringlens.store.records import TokenArrays


def finished_items(folder: str | Path, run_id: str) -> set[int]:
    """Places in the run's list whose traces are finished."""
    query = "select item from traces where run_id = ? and finish_reason != 'running'"
    with Store(folder) as store:
        return {item for (item,) in store.sql(query, [run_id]).fetchall()}


def unfinished_tasks(folder: str | Path, run_id: str, tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a run whose traces are not finished, those begun with what they have so far."""
    with Store(folder) as store:
        rows = store.sql(
            "select item, trace_id, finish_reason from traces where run_id = ?", [run_id]
        ).fetchall()
        begun = {item: (trace_id, reason) for item, trace_id, reason in rows}
        left = []
        for task in tasks:
            trace_id, reason = begun.get(task.item, (None, "running"))
            if reason == "running":
                left.append(task if trace_id is None else _continued(store, task, trace_id))
        return left


def _continued(store: Store, task: Task, trace_id: int) -> Task:
    """The task, to go on behind the trace's last committed token."""
    trace = store.trace(trace_id)
    tokens = TokenArrays(**{name: trace.tokens()[name] for name in TokenArrays.__annotations__})
    so_far = tokens.token_id.tolist()
    return replace(
        task,
        # A finished text stays what it is; of one that is being written this is what there is.
        token_ids=task.token_ids if len(task.token_ids) == task.limit else so_far,
        trace_id=trace_id,
        earlier=tokens,
        resumed_at=(*trace.summary["resumed_at"], len(so_far)),
    )
