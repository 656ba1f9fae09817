"""Which runs are of one model: what people say of an expert is about the model, not about a run."""

from __future__ import annotations


def of_same_model(runs: str) -> str:
    """SQL of the ids of all runs of the models of some runs.

    Args:
        runs: Which: a condition on ``own.run_id``.
    """
    return f"""
select other.run_id from runs as own join runs as other
    on own.model = other.model and own.revision is not distinct from other.revision
where {runs}"""
