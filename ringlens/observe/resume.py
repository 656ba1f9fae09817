"""Taking up a run that was interrupted: what of its tasks is left to do.

A batch that was interrupted is run again from its prompts, as it was: the same rows, padded alike.
What the store has is not recorded again, and its tokens are the ones that are fed. So keys, values
and all records behind the seam are bit for bit those of an uninterrupted run; a prefill over the
stored tokens would be faster, but its kernels round differently from those of decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ringlens.errors import ObservationError
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.store import Store
from ringlens.store.schema.captured import RUNNING
from ringlens.store.schema.records import TokenArrays


def finished_items(folder: str | Path, run_id: str) -> set[int]:
    """Places in the run's list whose traces are finished."""
    query = f"select item from traces where run_id = ? and finish_reason != '{RUNNING}'"
    with Store(folder) as store:
        return {item for (item,) in store.sql(query, [run_id]).fetchall()}


def batches(tasks: Sequence[Task], size: int) -> list[list[Task]]:
    """All that a process does, ``size`` tasks at a time."""
    return [[*tasks[first : first + size]] for first in range(0, len(tasks), size)]


def unfinished_batches(
    folder: str | Path, run_id: str, whole: Sequence[Sequence[Task]]
) -> list[list[Task]]:
    """The batches of a run in which something is left to do.

    Args:
        folder: The store.
        run_id: The run.
        whole: All batches that this process does in it.

    Returns:
        Whole batches; those tasks that were begun know what the store has of them.

    Raises:
        ObservationError: A stored trace does not begin with the tokens of its prompt or text.
    """
    query = "select item, trace_id, finish_reason from traces where run_id = ?"
    with Store(folder) as store:
        begun = {item: row for item, *row in store.sql(query, [run_id]).fetchall()}
        return [
            [_begun(store, t, *begun[t.item]) if t.item in begun else t for t in batch]
            for batch in whole
            if any(begun.get(task.item, (0, RUNNING))[1] == RUNNING for task in batch)
        ]


def _begun(store: Store, task: Task, trace_id: int, reason: str) -> Task:
    """The task, with what the store has of it."""
    trace = store.trace(trace_id)
    tokens = TokenArrays(**{name: trace.tokens()[name] for name in TokenArrays.__annotations__})
    _refuse_other_tokens(task, trace_id, tokens.token_id.tolist())
    # Inside the prompt nothing has been generated that could be taken up.
    here = (len(tokens.token_id),) if len(tokens.token_id) >= task.n_prompt else ()
    return replace(
        task,
        trace_id=trace_id,
        earlier=tokens,
        finished=reason != RUNNING,
        resumed_at=(*(trace.summary["resumed_at"] or ()), *here),
    )


def _refuse_other_tokens(task: Task, trace_id: int, stored: list[int]) -> None:
    both = list(zip(stored, task.token_ids, strict=False))
    if other := [pos for pos, (found, known) in enumerate(both) if found != known]:
        pos = other[0]
        raise ObservationError(
            f"trace {trace_id} has token {stored[pos]} at pos {pos}, where its prompt or text has "
            f"{task.token_ids[pos]}: it was resumed from a part of its prompt, which earlier "
            f"versions did. Take it out with `ringlens check STORE --repair --drop-damaged`, then "
            f"start the same call again"
        )
