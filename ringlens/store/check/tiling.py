"""Checks that rows cover each trace, on each layer, from the first token to the last, once.

Shape letters: R rows, S segments (runs of adjacent rows).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass
class Segments:
    """Ranges of positions ``start … stop - 1`` of a trace on a layer, in file order.

    Rows that continue each other are merged, so memory grows with the number of files and traces,
    not with the number of rows.
    """

    parts: list[Ints] = field(default_factory=list)

    def add(self, trace_R: Ints, layer_R: Ints, pos_R: Ints, length_R: Ints | int = 1) -> None:
        """Add rows in file order; each covers ``length`` positions from ``pos``."""
        if not len(trace_R):
            return
        stop_R = pos_R + length_R
        new_R = np.ones(len(trace_R), bool)
        new_R[1:] = (
            (trace_R[1:] != trace_R[:-1])
            | (layer_R[1:] != layer_R[:-1])
            | (pos_R[1:] != stop_R[:-1])
        )
        first = np.flatnonzero(new_R)
        last = np.append(first[1:], len(trace_R)) - 1
        self.parts.append(np.stack([trace_R[first], layer_R[first], pos_R[first], stop_R[last]]))

    def sorted(self) -> Ints:
        """All segments [4, S] (trace, layer, start, stop), sorted by trace, layer and start."""
        if not self.parts:
            return np.zeros((4, 0), np.int64)
        found = np.concatenate(self.parts, axis=1)
        return found[:, np.lexsort(found[2::-1])]


@dataclass(frozen=True)
class Faults:
    """Traces that are not covered exactly once, each with one example.

    Attributes:
        missing: Trace → (layer, position) of a token without a row.
        twice: Trace → (layer, position) of a token with two rows, or beyond the trace's end.
    """

    missing: dict[int, tuple[int, int]]
    twice: dict[int, tuple[int, int]]


def faults(segments: Ints, ids: Ints, tokens: Ints, layers: Ints, whole: bool) -> Faults:
    """Compare segments with the tokens of their traces.

    Args:
        segments: Result of `Segments.sorted`.
        ids: Traces, ascending; segments of other traces are skipped.
        tokens: Number of tokens of each trace.
        layers: Layers on which each trace should have rows, ascending.
        whole: Whether rows must start at 0 and end at the last token.
    """
    trace, layer, start, stop = segments[:, np.isin(segments[0], ids)]
    total = tokens[np.searchsorted(ids, trace)]
    continues = np.zeros(len(trace), bool)
    continues[1:] = (trace[1:] == trace[:-1]) & (layer[1:] == layer[:-1])
    # Where a segment should start: where the one before it stops, or at the first token.
    before = np.where(continues, np.roll(stop, 1), np.where(whole, 0, start))
    ends = ~np.roll(continues, -1) if len(trace) else continues
    short = ends & (stop < total) & whole
    missing = _where(trace, layer, before, start > before)
    missing |= _where(trace, layer, stop, short)
    twice = _where(trace, layer, start, start < before)
    twice |= _where(trace, layer, total, stop > total)
    return Faults(missing | _absent(trace, layer, ids, layers), twice)


def _where(trace: Ints, layer: Ints, pos: Ints, wrong: NDArray[np.bool_]) -> dict:
    at = np.flatnonzero(wrong)
    return {int(trace[i]): (int(layer[i]), int(pos[i])) for i in at[::-1]}


def _absent(trace: Ints, layer: Ints, ids: Ints, layers: Ints) -> dict:
    """Traces that have rows, but none on some layer."""
    # A layer without any row has no segment, so gaps between segments cannot show it.
    there = np.zeros((len(ids), len(layers)), bool)
    known = np.isin(layer, layers)
    there[np.searchsorted(ids, trace[known]), np.searchsorted(layers, layer[known])] = True
    wrong = ~there & there.any(axis=1, keepdims=True)
    return {int(ids[i]): (int(layers[row.argmax()]), 0) for i, row in enumerate(wrong) if row.any()}
