"""A map of the steps of a problem's traces, on which near steps are alike.

Shape letters: S steps, D numbers of a signature, C components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.trajectory.geometry import described
from ringlens.analysis.trajectory.signatures import ROUTING, signatures
from ringlens.config import refuse_unknown, whole
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

NONE = 1e-12
"""Part of all variance that is none, but rounding."""


@refuse_unknown
def step_map(
    store: Source,
    where: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    point: str = ROUTING,
    components: int = 2,
) -> pd.DataFrame:
    """Draw the steps of all traces of a problem on one map: their principal components.

    The axes are those of all steps of the problem's traces together, each step counting once
    (Pearson 1901; of routing, components of √p, after Rao 1995). Distances on the map of one
    problem do not compare with those on another's.

    Args:
        store: The store.
        where: As in `signatures`.
        layers: As in `signatures`.
        point: As in `signatures`.
        components: Number of axes.

    Returns:
        A row per step: the columns of `Signatures.steps`, and ``pc1``, ``pc2``, …, its place, of
        which the first varies most. Each axis points to where its largest loading is positive, so
        that the map is the same every time. Problems with fewer than three steps have no map and no
        rows. ``attrs``: ``where``, ``kind``, ``layers``, ``traces``; and ``explained``, by problem,
        the share of the steps' variance along each axis.

    Raises:
        ConfigError: As `signatures`, or the number of components is none.
        StoreError: As `signatures`; or no problem has three steps.
    """
    C = whole("components", components, 1, 100)
    found = signatures(store, where, layers=layers, point=point)
    parts, explained = [], {}
    for problem, own in found.steps.groupby("problem_id", dropna=False, sort=True):
        if len(own) < 3:
            continue
        place_SC, share_C = principal_components(found.vector_SD[own.index.to_numpy()], C)
        named = {f"pc{number + 1}": place_SC[:, number] for number in range(C)}
        parts.append(own.assign(**named))
        explained[problem if isinstance(problem, str) else None] = share_C.tolist()
    if not parts:
        raise StoreError(
            f"no problem selected by {found.where!r:.200} has three steps; a map takes as many."
        )
    frame = pd.concat(parts, ignore_index=True)
    frame.attrs |= described(found) | {"explained": explained}
    frame.attrs["traces"] = int(frame["trace_id"].nunique())
    return frame


def principal_components(
    vector_SD: NDArray[np.float32], components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute places along the axes of most variance.

    Args:
        vector_SD: A vector per row.
        components: Number of axes; those beyond what the vectors span are 0.

    Returns:
        Places [S, C], and the share of the variance along each axis [C].
    """
    centred_SD = vector_SD.astype(np.float64) - vector_SD.mean(axis=0, dtype=np.float64)
    S, D = centred_SD.shape
    # Of the two matrices of inner products the smaller has the same variances, and costs less than
    # a decomposition of all vectors.
    inner = centred_SD @ centred_SD.T if S <= D else centred_SD.T @ centred_SD
    variance, vector = np.linalg.eigh(inner)
    total = float(variance.sum())
    best = [at for at in np.argsort(-variance)[:components] if variance[at] > NONE * total]
    size_C = np.sqrt(variance[best])
    axis_CD = vector[:, best].T if S > D else vector[:, best].T @ centred_SD / size_C[:, None]
    largest_C = np.abs(axis_CD).argmax(axis=1)
    sign_C = np.where(axis_CD[np.arange(len(best)), largest_C] < 0, -1.0, 1.0)
    place_SC = centred_SD @ (axis_CD * sign_C[:, None]).T
    lacking = components - len(best)
    share_C = variance[best] / total if best else np.zeros(0)
    return np.pad(place_SC, ((0, 0), (0, lacking))), np.pad(share_C, (0, lacking))
