"""The steps of a trace, in order, as a script is sent them.

Shape letters: S steps.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.roles import ROLES
from ringlens.app.shared.arrow import floats
from ringlens.app.shared.constants import NO_STEP
from ringlens.app.shared.queries import frame, of_trace
from ringlens.plot.typed_arrays import encode
from ringlens.store import Store

Row = dict[str, Any]

STEPS = """
select step, token_start, token_end, role, is_backtrack, is_hypothesis, parent, confidence,
       label_source
from {steps} where trace_id = {trace_id} order by step"""
"""The steps of a trace, in order."""

TEXTS = """
select step, text from {steps} where trace_id = {trace_id} order by step"""


def steps(store: Store, trace_id: int) -> pa.Table:
    """Return the steps of a trace, in order."""
    return _asked(store, STEPS, trace_id)


def texts(store: Store, trace_id: int) -> dict[int, str]:
    """Return the text of each step by its number."""
    found = _asked(store, TEXTS, trace_id)
    return dict(zip(found["step"].to_pylist(), found["text"].to_pylist(), strict=True))


def encoded(table: pa.Table) -> Row:
    """Encode spans of tokens, roles, flags and parents of steps [S]; see shared/steps.js."""
    role_at = {role: place for place, role in enumerate(ROLES)}
    roles = [role_at.get(role, len(ROLES)) for role in table["role"].to_pylist()]
    return {
        "step": encode(table["step"].to_numpy(), "u4"),
        "first": encode(table["token_start"].to_numpy(), "u4"),
        "end": encode(table["token_end"].to_numpy(), "u4"),
        "role": encode(np.array(roles), "u1"),
        "backtrack": encode(_flags(table["is_backtrack"]), "u1"),
        "hypothesis": encode(_flags(table["is_hypothesis"]), "u1"),
        "confidence": encode(floats(table["confidence"]), "f4"),
        "parent": encode(_numbers(table["parent"]), "u4"),
        "source": sorted({each for each in table["label_source"].to_pylist() if each}),
    }


def command(store: Store) -> str:
    """Return the command that cuts the traces of a store into steps."""
    return f"ringlens steps {shlex.quote(store.address)}"


def spread(layers: Sequence[int], most: int) -> list[int] | None:
    """Choose so many layers, evenly spread, and at least one; None for all of them."""
    if most >= len(layers):
        return None
    places = np.unique(np.linspace(0, len(layers) - 1, max(1, most)).round().astype(int))
    return [layers[place] for place in places]


def _asked(store: Store, query: str, trace_id: int) -> pa.Table:
    source = of_trace(store, "steps", trace_id)
    return frame(store, query.format(steps=source, trace_id="$trace_id"), {"trace_id": trace_id})


def _flags(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Convert booleans to 0 and 1; null, of a step without a label, to 0."""
    return np.array([bool(value) for value in column.to_pylist()], np.uint8)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.uint32]:
    return np.array([NO_STEP if x is None else x for x in column.to_pylist()], np.uint32)
