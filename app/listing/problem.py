"""The traces of one problem that one model thought about."""

from __future__ import annotations

from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.queries import Row, rows

MOST = 500
"""Traces that are listed, the lowest ids first."""


def traces_alike(catalogue: Catalogue, trace_id: int) -> list[Row]:
    """List the traces of the problem and the model of a trace, with itself.

    Traces without the name of a problem are of one if they have the same prompt.

    Returns:
        ``trace_id``, ``run_id``, ``sample``, ``correct``, ``answer``, ``mode``, ``interventions``
        and ``tokens`` of each, in order of trace.
    """
    query = f"""
        with own as (
            select problem_id, task, prompt, model, revision
            from traces join runs using (run_id) where trace_id = $trace_id)
        select traces.trace_id, traces.run_id, sample, correct, answer, mode, interventions,
               n_prompt + n_think + n_answer as tokens
        from traces join runs using (run_id), own
        where traces.problem_id is not distinct from own.problem_id
              and traces.task is not distinct from own.task
              and (own.problem_id is not null or traces.prompt = own.prompt)
              and runs.model = own.model and runs.revision is not distinct from own.revision
        order by traces.trace_id limit {MOST}"""
    return rows(catalogue, query, {"trace_id": trace_id})


def partner(listed: list[Row], trace_id: int) -> Row | None:
    """Choose which trace to set beside one: the next of another verdict, else the next.

    Returns:
        A row of `traces_alike`; None if there is no other trace.
    """
    own = next((each for each in listed if each["trace_id"] == trace_id), None)
    at = listed.index(own) if own else 0
    others = [each for each in listed[at:] + listed[:at] if each["trace_id"] != trace_id]
    told = [each for each in others if own and each["correct"] is (not own["correct"])]
    return next(iter([*told, *others]), None)
