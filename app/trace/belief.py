"""Reads what the probe `belief` found: how sure of its answer a thought was after each step.

The probe stores a row of ``probes`` for each step of a trace: ``unit`` is the step, ``key`` is
"final" and ``value`` the probability, right after that step, of the answer that the trace gave in
the end; ``json`` may name the likeliest answer there as ``top``.
"""

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
        Arrays ``step``, ``pos`` (the last token before the question) and ``probability``, and
        ``top``, the likeliest answers; or what is lacking.
    """
    found = queries.belief(store, trace_id)
    if not found:
        return {
            "lacks": "What it would answer after each step was not asked.",
            "command": f"ringlens probe belief {shlex.quote(run['model'])} "
            f"{shlex.quote(store.address)}",
        }
    query = queries.BELIEF.format(probes="probes", steps="steps", trace_id=trace_id)
    return {
        "step": encode(np.array([row["step"] for row in found]), "u4"),
        "pos": encode(np.array([max(0, row["token_end"] - 1) for row in found]), "u4"),
        "probability": encode(np.array([_number(row["probability"]) for row in found]), "f4"),
        "top": [_top(row["json"]) for row in found],
        "made": made(store, query, f'found = store.sql("""{query}""").df()'),
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _top(text: str | None) -> str | None:
    """Return the likeliest answer that a row of the probe names."""
    found = json.loads(text) if text else None
    top = found.get("top") if isinstance(found, dict) else None
    return top if isinstance(top, str) else None
