"""Reads what people said, as pages show it."""

from __future__ import annotations

from ringlens.app.shared.queries import Row, rows
from ringlens.app.steps.listed import steps
from ringlens.store import Store
from ringlens.store.annotations.models import of_same_model

_ROWS = """
select annotation_id, kind, trace_id, step, token_start as pos, moved, layer, expert, label, note,
       author, source, strftime(created, '%Y-%m-%dT%H:%M:%SZ') as created
from current_annotations where {} order by created, annotation_id"""

# Of a run's model, whichever of its runs it was said at; where all runs are of one, of that.
_ONE_MODEL = "(select count(distinct (model, coalesce(revision, ''))) from runs) = 1"
_OF_MODEL = (
    f"""run_id in ({of_same_model(f"own.run_id = $run_id or ($run_id = '' and {_ONE_MODEL})")})"""
)


def of_trace(store: Store, trace_id: int) -> Row:
    """What was said of a trace and its steps, oldest first, and the steps that have tokens.

    Returns:
        ``rows``; ``steps``: number, first token, token after the last.
    """
    found = rows(store, _ROWS.format("trace_id = $trace_id"), {"trace_id": trace_id})
    return {"rows": found, "steps": _steps_of(store, trace_id)}


def of_expert(store: Store, run_id: str, layer: int, expert: int) -> Row:
    """What was said of an expert, in any run of its model, oldest first.

    Args:
        store: The store.
        run_id: A run of the model; "" where all runs are of one.
        layer: Layer of the expert.
        expert: Expert id.

    Returns:
        ``rows``.
    """
    where = f"layer = $layer and expert = $expert and {_OF_MODEL}"
    asked = {"run_id": run_id, "layer": layer, "expert": expert}
    return {"rows": rows(store, _ROWS.format(where), asked)}


def of_experts(store: Store, run_id: str) -> Row:
    """What was said of all experts of a run's model, oldest first, under ``rows``."""
    where = f"kind = 'expert' and {_OF_MODEL}"
    return {"rows": rows(store, _ROWS.format(where), {"run_id": run_id})}


def is_expert(store: Store, layer: int, expert: int) -> bool:
    """Whether any run has an expert."""
    query = "select 1 from experts where layer = $layer and expert = $expert limit 1"
    return bool(rows(store, query, {"layer": layer, "expert": expert}))


def labels_of_experts(store: Store, run_id: str) -> Row:
    """The latest label of each expert that has one, with its author, under ``rows``.

    Args:
        store: The store.
        run_id: A run of the model; "" where all runs are of one.
    """
    query = f"""
select layer, expert, max_by(label, (created, annotation_id)) as label,
       max_by(author, (created, annotation_id)) as author
from current_annotations where kind = 'expert' and label is not null and {_OF_MODEL}
group by layer, expert order by layer, expert"""
    return {"rows": rows(store, query, {"run_id": run_id})}


def _steps_of(store: Store, trace_id: int) -> list[list[int]]:
    found = steps(store, trace_id).to_pylist()
    spans = ([row["step"], row["token_start"], row["token_end"]] for row in found)
    return [span for span in spans if span[2] > span[1]]
