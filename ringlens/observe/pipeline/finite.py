"""Numbers that are none: NaN and infinities in what a model gives, found where they are recorded.

A block is looked at as a whole first, by sums of squares: if one is finite, so is all that it sums.
Only fields that fail this are looked at number by number, trace by trace.

Shape letters: L layers, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlens.errors import ObservationError
from ringlens.observe.pipeline.block import Block, Field
from ringlens.problem import Problem
from ringlens.store.schema.instruments import ORDER, column_of, observed_as

LOGPROBS = "logprobs"
PEAK: Field = (LOGPROBS, "peak")
"""Largest logit before a token, looked at where log-probabilities are not recorded; not stored."""


@dataclass(frozen=True, order=True)
class Fault:
    """The first number of a token that is none; faults are in the order in which they came about.

    Attributes:
        pos: The token.
        layer: The layer, that of the logits behind all others.
        order: Place of the instrument among those of a layer.
        name: What is not a number.
        value: "nan", "inf" or "-inf".
    """

    pos: int
    layer: int
    order: int
    name: str
    value: str


def suspects(block: Block) -> frozenset[Field]:
    """The fields of a block in which something may not be finite, padding included."""
    return frozenset(
        field
        for field, array in block.fields.items()
        if array.dtype.kind == "f" and not _are_finite(array)
    )


def _are_finite(array: NDArray[np.floating]) -> bool:
    """Whether all numbers are finite; may be False where squares of numbers are not."""
    if array.dtype == np.float16:  # whose squares soon are not: the bits, without the sign
        return not array.size or int((array.view(np.uint16) << 1).max()) < 0xF800
    with np.errstate(over="ignore", invalid="ignore"):  # that is what is asked here
        # Half the time of a sum, a third of that of looking at each: 0.24 ns a number.
        return bool(np.isfinite(np.dot(array.ravel(), array.ravel())))


def faults(
    field: Field, part: NDArray[np.floating], first: int, layers: tuple[int, ...]
) -> dict[int, Fault]:
    """What is wrong in one trace's part of a field.

    Args:
        field: Instrument and name.
        part: [L, T, …].
        first: Position of the first of the T.
        layers: The L layers.

    Returns:
        By position its first fault.
    """
    wrong = ~np.isfinite(part)
    column = column_of(*field)
    # An infinite margin says that nothing could have displaced an expert or a group; masked logits
    # are minus infinity, and so is the log-probability of a token that was masked.
    if column is not None and column.infinite is not None:
        wrong &= part != column.infinite
    if field[0] == LOGPROBS and first == 0:
        wrong[:, 0] = False  # nothing is expected of the first token
    wrong_LT = wrong.reshape(*part.shape[:2], -1).any(axis=2)
    found = {}
    for t in np.flatnonzero(wrong_LT.any(axis=0)).tolist():
        row = int(wrong_LT[:, t].argmax())
        value = part[row, t][wrong[row, t]].flat[0]
        found[first + t] = _fault(field, first + t, layers[row], str(float(value)))
    return found


def _fault(field: Field, pos: int, layer: int, value: str) -> Fault:
    instrument, name = field
    declared = next(iter(observed_as(instrument)), None)  # none of the points of vectors
    # The numbers of a token's expectation come from the logits of the token before.
    at, place = (pos - 1, 2**31) if instrument == LOGPROBS else (pos, layer)
    what = f"a number of {instrument}"
    if field == PEAK:
        what = "the largest"
    elif declared is not None and declared.words:
        what = declared.words.format(name)
    order = ORDER.index("point" if declared is None else declared.attaches_to)
    return Fault(at, place, order, what, value)


def refuse(fault: Fault, trace_id: int | None, item: int, problem: Problem | None) -> None:
    """Say where the first number is that is none.

    Raises:
        ObservationError: Always.
    """
    where = "the logits" if fault.layer == 2**31 else f"layer {fault.layer}"
    if fault.layer < 0:
        where = "outside the layers"
    named = f" ({problem.id})" if problem and problem.id else ""
    trace = f", trace {trace_id}" if trace_id is not None else ""
    raise ObservationError(
        f"{where}, token {fault.pos} of item {item}{named}{trace}: {fault.name} is {fault.value}, "
        f"which is not a number to record. Look for NaN or infinities in the model's weights, or "
        f"load it in a dtype with more range; allow_nonfinite=True (--allow-nonfinite) goes on and "
        f"flags such rows"
    )


def merged(found: Mapping[int, Fault], more: Mapping[int, Fault]) -> dict[int, Fault]:
    """Of each position the first fault of two."""
    both = dict(found)
    for pos, fault in more.items():
        both[pos] = min(both.get(pos, fault), fault)
    return both
