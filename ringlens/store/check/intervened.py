"""What routers choose under interventions, recomputed from stored logits.

Shape letters: R rows (a token on a layer), E experts, G groups, k experts per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.interventions import (
    Ablate,
    Boost,
    Force,
    Intervention,
    RouteAround,
    Swap,
    read_interventions,
)

Flags = NDArray[np.bool_]


def interventions_of(run: Mapping[str, Any]) -> tuple[Intervention, ...]:
    """The interventions of a run; none in runs of older versions."""
    return read_interventions(run.get("interventions") or ())


def acted_together(intervened: pa.ChunkedArray) -> dict[tuple[int, ...], NDArray[np.int64]]:
    """Rows by the interventions that acted at them."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row, numbers in enumerate(intervened.to_pylist()):
        found.setdefault(tuple(numbers or ()), []).append(row)
    return {numbers: np.array(rows) for numbers, rows in found.items()}


def unswapped(ran_RE: Flags, acts: Sequence[Intervention]) -> Flags:
    """The experts that were chosen, of those that ran once some were exchanged."""
    for act in reversed(acts):
        if isinstance(act, Swap):
            first, second = act.ids
            ran_RE = ran_RE.copy()
            ran_RE[:, [first, second]] = ran_RE[:, [second, first]]
    return ran_RE


def edited(
    scores_RE: NDArray, acts: Sequence[Intervention], groups: int
) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Edit selection scores as interventions do.

    Returns:
        Scores [R, E] by which groups are ranked; what is added behind the group limit, [E], -inf or
        inf; and the groups that are kept in any case.
    """
    scores_RE, behind_E = scores_RE.copy(), np.zeros(scores_RE.shape[1])
    size = scores_RE.shape[1] // groups
    kept: set[int] = set()
    for act in acts:
        if isinstance(act, Boost):
            scores_RE[:, act.ids] += act.by
        elif isinstance(act, Force):
            behind_E[list(act.ids)] = np.inf
        elif isinstance(act, RouteAround):
            behind_E[act.expert] = -np.inf
        if isinstance(act, Boost | Force):
            kept.update(expert // size for expert in act.ids)
    for act in acts:
        if isinstance(act, Ablate):
            scores_RE[:, act.ids] = -np.inf
    return scores_RE, behind_E, np.array(sorted(kept), np.int64)


def most_added(acts: Sequence[Intervention]) -> float:
    """The largest that is added to a score: float32 rounds sums as coarsely as that is large."""
    return sum(act.by for act in acts if isinstance(act, Boost))
