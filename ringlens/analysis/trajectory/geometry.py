"""Geometry of a thought's path: how fast it moves, where it turns, how far it gets.

Longer paths are less straight by mere length (arXiv 2605.15454), so each measure stands beside what
the same steps give in random order.

Shape letters: S steps of a path, D numbers of a signature, U traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.statistics.permutation import SignFlips, p_values
from ringlens.analysis.trajectory.signatures import ROUTING, Signatures, signatures
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_BLOCK = 512
"""Steps whose distances to all others are held at once."""


@refuse_unknown
def step_geometry(
    store: Source,
    where: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    point: str = ROUTING,
) -> pd.DataFrame:
    """Measure each step of the paths of thoughts.

    Args:
        store: The store.
        where: As in `signatures`.
        layers: As in `signatures`.
        point: As in `signatures`.

    Returns:
        A row per step: the columns of `Signatures.steps`; ``speed``, the distance of its signature
        from that of the step before (NaN at the first); ``turn``, the angle in degrees between the
        way to it and the way on (NaN at both ends, and where the path stands still); and
        ``from_start``, its distance from the first step. ``attrs``: ``where``, ``kind``, ``layers``
        and ``traces``.

    Raises:
        ConfigError: As `signatures`.
        StoreError: As `signatures`.
    """
    found = signatures(store, where, layers=layers, point=point)
    parts = []
    for _, places in found.paths():
        path_SD = found.vector_SD[places].astype(np.float64)
        from_start_S = np.linalg.norm(path_SD - path_SD[0], axis=1)
        parts.append((_padded(speeds(path_SD), 1, 0), _turns_of(path_SD), from_start_S))
    speed, turn, from_start = (np.concatenate(each) for each in zip(*parts, strict=True))
    frame = found.steps.assign(speed=speed, turn=turn, from_start=from_start)
    frame.attrs |= described(found)
    return frame


@refuse_unknown
def path_geometry(
    store: Source,
    where: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    point: str = ROUTING,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the path of each thought.

    Progress and curvature are those of arXiv 2603.10384, speed that of arXiv 2607.01571.

    Args:
        store: The store.
        where: As in `signatures`.
        layers: As in `signatures`.
        point: As in `signatures`.
        seed: Seed of the permutations, where there are too many to compute all.

    Returns:
        A row per trace with two steps or more: ``trace_id``, ``problem_id``, ``correct``, ``steps``
        and ``tokens``; ``length`` of the path; ``net``, the distance of its last step from its
        first; ``straightness`` = net / length, 1 for a straight line and 0 for a closed loop;
        ``speed``, the mean distance of successive steps; ``turn``, the mean angle in degrees (in
        many dimensions, 120 for steps that have nothing to do with each other); ``distance``, the
        mean distance of any two steps, which is what speed and net are on average if the steps come
        in random order; and ``relative_speed`` = speed / distance and ``relative_net`` = net /
        distance, 1 by chance whatever the number of steps. ``attrs``: ``where``, ``kind``,
        ``layers``, ``traces``; and ``p``, of speed against distance, by sign flips of whole traces.

    Raises:
        ConfigError: As `signatures`.
        StoreError: As `signatures`; or no trace has two steps.
    """
    found = signatures(store, where, layers=layers, point=point)
    rows = []
    for trace_id, places in found.paths():
        if len(places) < 2:
            continue
        own = found.steps.iloc[places]
        about = {name: own[name].iloc[0] for name in ("problem_id", "correct")}
        path_SD = found.vector_SD[places].astype(np.float64)
        counts = {"steps": len(places), "tokens": int(own["tokens"].sum())}
        rows.append({"trace_id": trace_id, **about, **counts, **measured(path_SD)})
    if not rows:
        raise StoreError(
            f"no trace selected by {found.where!r:.200} has two steps; a path takes two or more."
        )
    frame = pd.DataFrame(rows)
    terms_UX = (frame["speed"] - frame["distance"]).to_numpy()[:, None]
    rng = np.random.default_rng(seed)
    frame.attrs |= described(found) | {"traces": len(frame)}
    frame.attrs["p"] = float(p_values(terms_UX, SignFlips(len(frame)), rng)[0])
    return frame


def measured(path_SD: NDArray[np.float64]) -> dict[str, float]:
    """Measures of one path of two points or more; see `path_geometry`."""
    speed_S, turn_S = speeds(path_SD), turns(path_SD)
    length, net = float(speed_S.sum()), float(np.linalg.norm(path_SD[-1] - path_SD[0]))
    distance, speed = mean_distance(path_SD), float(speed_S.mean())
    known = ~np.isnan(turn_S)
    return {
        "length": length,
        "net": net,
        "straightness": net / length if length > 0 else np.nan,
        "speed": speed,
        "turn": float(turn_S[known].mean()) if known.any() else np.nan,
        "distance": distance,
        "relative_speed": speed / distance if distance > 0 else np.nan,
        "relative_net": net / distance if distance > 0 else np.nan,
    }


def speeds(path_SD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances of successive points, [S − 1]."""
    return np.linalg.norm(np.diff(path_SD, axis=0), axis=1)


def turns(path_SD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in degrees between successive ways, [S − 2]; NaN where the path stands still.

    From the half angle (Kahan), which stays exact near 0 and 180 degrees.
    """
    way_SD = np.diff(path_SD, axis=0)
    long_S = np.linalg.norm(way_SD, axis=1)
    still_S = long_S < 1e-12
    unit_SD = way_SD / np.where(still_S, 1, long_S)[:, None]
    before_SD, after_SD = unit_SD[:-1], unit_SD[1:]
    apart_S = np.linalg.norm(after_SD - before_SD, axis=1)
    along_S = np.linalg.norm(after_SD + before_SD, axis=1)
    angle_S = np.degrees(2 * np.arctan2(apart_S, along_S))
    return np.where(still_S[:-1] | still_S[1:], np.nan, angle_S)


def mean_distance(path_SD: NDArray[np.float64]) -> float:
    """Mean distance of any two different points of a path."""
    S, total = len(path_SD), 0.0
    square_S = (path_SD**2).sum(axis=1)
    for start in range(0, S, _BLOCK):
        own = slice(start, start + _BLOCK)
        square_BS = square_S[own, None] + square_S - 2 * path_SD[own] @ path_SD.T
        distance_BS = np.sqrt(np.maximum(square_BS, 0))
        distance_BS[np.arange(len(distance_BS)), np.arange(start, start + len(distance_BS))] = 0
        total += distance_BS.sum()
    return total / (S * (S - 1))


def described(found: Signatures) -> dict[str, object]:
    """What a table of signatures says of itself."""
    return {
        "where": found.where,
        "kind": found.kind,
        "layers": list(found.layers),
        "traces": len(found.traces),
    }


def _turns_of(path_SD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns beside the steps at which they are, [S]."""
    if len(path_SD) < 3:
        return np.full(len(path_SD), np.nan)
    return _padded(turns(path_SD), 1, 1)


def _padded(values: NDArray[np.float64], before: int, after: int) -> NDArray[np.float64]:
    return np.pad(values, (before, after), constant_values=np.nan)
