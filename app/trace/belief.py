"""Encodes what the probe `belief` found: how sure of its answer a thought was after each step."""

from __future__ import annotations

import json
import shlex
from typing import Any

import numpy as np

from ringlens.app.shared.made import made
from ringlens.app.trace import queries
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store

Row = dict[str, Any]


def belief(store: Store, run: Row, trace_id: int) -> Row:
    """Encode the probability of the final answer after each step that was asked.

    Args:
        store: The store.
        run: Run of the trace.
        trace_id: The trace.

    Returns:
        Arrays ``pos`` (the last token before the question) and ``probability`` of the answer that
        the thought gave in the end; ``step``, -1 for the place before the first, and ``top``, the
        likeliest candidate there. Or what is lacking.
    """
    told = {unit: json.loads(text) for unit, text in queries.candidates(store, trace_id).items()}
    if not told:
        return {
            "lacks": "What it would answer after each step was not asked.",
            "command": f"ringlens probe belief {shlex.quote(run['model'])} "
            f"{shlex.quote(store.address)}",
        }
    final = [unit for unit, said in told.items() if said["final"]]
    if not final:
        return {"lacks": "The thought gave no answer in the end.", "command": ""}
    found = queries.belief(store, trace_id, final)
    likeliest = queries.likeliest(store, trace_id)
    query = queries.BELIEF.format(
        probes="probes", steps="steps", trace_id=trace_id, final=", ".join(map(str, final))
    )
    program = (
        f'found = belief(store, {run["run_id"]!r})\nfound = found[found["trace_id"] == {trace_id}]'
    )
    return {
        "step": [row["step"] for row in found],
        "pos": encode(np.array([max(0, row["token_end"] - 1) for row in found]), "u4"),
        "probability": encode(np.array([row["p_final"] for row in found]), "f4"),
        "top": [told[likeliest[row["step"]]]["answer"] for row in found],
        "made": made(store, query, program, "ringlens.analysis.importance.belief.belief"),
    }
