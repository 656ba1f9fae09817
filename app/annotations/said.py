"""Reads what people said, as pages show it."""

from __future__ import annotations

from ringlens.app.shared.queries import Row, rows
from ringlens.app.steps.listed import steps
from ringlens.store import Store

_ROWS = """
select annotation_id, kind, trace_id, step, token_start as pos, moved, layer, expert, label, note,
       author, source, strftime(created, '%Y-%m-%dT%H:%M:%SZ') as created
from current_annotations where {} order by created, annotation_id"""

_SAME_MODEL = """run_id in (
    select other.run_id from runs as own join runs as other
        on own.model = other.model and own.revision is not distinct from other.revision
    where own.run_id = $run_id)"""


def of_trace(store: Store, trace_id: int) -> list[Row]:
    """What was said of a trace and its steps, oldest first."""
    return rows(store, _ROWS.format("trace_id = $trace_id"), {"trace_id": trace_id})


def of_expert(store: Store, run_id: str, layer: int, expert: int) -> list[Row]:
    """What was said of an expert, in any run of its model, oldest first."""
    where = f"layer = $layer and expert = $expert and {_SAME_MODEL}"
    asked = {"run_id": run_id, "layer": layer, "expert": expert}
    return rows(store, _ROWS.format(where), asked)


def is_expert(store: Store, layer: int, expert: int) -> bool:
    """Whether any run has an expert."""
    query = "select 1 from experts where layer = $layer and expert = $expert limit 1"
    return bool(rows(store, query, {"layer": layer, "expert": expert}))


def of_experts(store: Store, run_id: str) -> list[Row]:
    """The latest label of each expert that has one, with its author.

    Args:
        store: The store.
        run_id: A run of the model; "" where all runs are of one.
    """
    only = "(select count(distinct (model, coalesce(revision, ''))) from runs) = 1"
    where = _SAME_MODEL if run_id else f"$run_id = '' and {only}"
    query = f"""
select layer, expert, max_by(label, (created, annotation_id)) as label,
       max_by(author, (created, annotation_id)) as author
from current_annotations where kind = 'expert' and label is not null and {where}
group by layer, expert order by layer, expert"""
    return rows(store, query, {"run_id": run_id})


def steps_of(store: Store, trace_id: int) -> list[list[int]]:
    """The steps of a trace that have tokens: number, first token, token after the last."""
    found = steps(store, trace_id).to_pylist()
    spans = ([row["step"], row["token_start"], row["token_end"]] for row in found)
    return [span for span in spans if span[2] > span[1]]
