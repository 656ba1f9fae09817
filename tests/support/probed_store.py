"""A store whose thoughts were probed: scores of heads, attention between steps, settings."""

import json

import numpy as np
from records import random_run, random_trace

from ringlens.store import StoreWriter

TOKENS, STEPS = 120, 12
KEEN = (2, 1)
"""The head whose score is far beyond chance."""
SETTINGS = {"gaps": [1, 4], "permutations": 399}


def write_probed_store(path, probed=True):
    """Two traces of a problem cut into steps, the first of which has results of ``receivers``.

    Args:
        path: Where.
        probed: Whether the probe was run.
    """
    run = random_run()
    rng = np.random.default_rng(0)
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [random_trace(run, TOKENS, seed=i, problem_id="p") for i in (1, 2)])
        writer.replace_rows(
            run_id, "steps", [_step(trace, i) for trace in (1, 2) for i in _steps()]
        )
        if probed:
            writer.replace_rows(run_id, "probes", list(_results(run, rng)))
            writer.replace_rows(run_id, "probes", list(_effects()))
            writer.replace_rows(run_id, "head_steps", list(_pairs(run, rng)))
        writer.finish_run(run_id)
    return path


def _steps():
    return range(STEPS)


def _step(trace, i):
    place = {"trace_id": trace, "step": i, "start": 60 + 10 * i, "end": 70 + 10 * i}
    tokens = {"token_start": 30 + 4 * i, "token_end": 34 + 4 * i}
    known = {"role": "active_computation", "is_backtrack": False, "is_hypothesis": False}
    return {**place, **tokens, **known, "text": f"Step {i} <b>says</b> this. "}


def _results(run, rng):
    about = {"probe": "receivers", "trace_id": 1}
    yield {**about, "key": "settings", "json": json.dumps(SETTINGS)}
    for layer in range(run.layers):
        for head in range(run.heads):
            place = {**about, "layer": layer, "unit": head}
            dealt = json.dumps(rng.normal(0, 1, 399).round(4).tolist())
            keen = (layer, head) == KEEN
            for gap in (1, 4):
                score = 9.0 if keen else float(rng.normal(0, 0.6))
                yield {**place, "key": f"kurtosis:{gap}", "value": score, "json": dealt}
                yield {**place, "key": f"beyond_recency:{gap}", "value": score - 1}
            yield {**place, "key": "recency", "value": float(rng.uniform(0.2, 0.8))}
            yield {**place, "key": "prompt", "value": 0.1}


def _effects():
    for trace in (1, 2):
        for unit in range(3):
            place = {"probe": "ablation", "trace_id": trace, "layer": 1, "unit": unit}
            yield {**place, "key": "loss", "value": 0.1 * unit + 0.02 * trace}


def _pairs(run, rng):
    for layer in range(run.layers):
        for head in (None, *range(run.heads)):
            for i in _steps():
                mass = rng.dirichlet(np.ones(i + 2))[:-1] * 0.8
                if (layer, head) == KEEN and i > 3:
                    mass[3] = 0.7
                for j in range(i + 1):
                    pair = {"trace_id": 1, "layer": layer, "head": head}
                    yield {**pair, "step_from": i, "step_to": j, "mass": float(mass[j])}
