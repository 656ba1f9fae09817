"""Bursts of backtracks: places where a thought goes back again and again.

Shape letters: S steps of a trace, B orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.trajectory.chosen_steps import of_thoughts, steps_of
from ringlens.config import refuse_unknown, whole
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

WITHIN = 4
"""Most steps from one backtrack of a burst to the next."""

DRAWS = 1_000
"""Random places of each trace's backtracks."""


@refuse_unknown
def backtrack_bursts(
    store: Source,
    where: str | None = None,
    *,
    within: int = WITHIN,
    least: int = 2,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Find runs of backtracks that follow each other closely.

    Args:
        store: The store, cut into steps and labelled.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase.
        within: Most steps from one backtrack to the next of its burst.
        least: Fewest backtracks of a burst.
        draws: Random places of the backtracks in each trace, for the null; 0 for none.
        seed: Seed of these.

    Returns:
        A row per burst, in order: ``trace_id``, ``problem_id``, ``correct``; ``first`` and
        ``last`` step; ``backtracks``, how many it has; ``pos``, the first position; and ``text`` of
        its first step. ``attrs``: ``where``; ``traces``; ``backtracks`` in all; ``followed``, how
        many have another within so many steps behind them; ``burstiness`` = (σ − μ) / (σ + μ) of
        the steps from one to the next (Goh and Barabási, EPL 81, 2008), −1 for regular ones and 0
        for random ones; and with draws ``null``, the mean of ``followed`` if each trace's
        backtracks fall on any of its steps, and ``p``, the share of draws with as many, the data
        counted.

    Raises:
        ConfigError: A predicate or a setting is wrong.
        StoreError: Nothing is selected, or the traces have no steps, or these no labels.
    """
    within, least = whole("within", within, 1), whole("least", least, 1)
    selection = of_thoughts(store, where)
    steps = steps_of(store, selection)
    if steps["is_backtrack"].isna().all():
        raise StoreError(
            f"the steps selected by {selection.where!r:.200} have no labels; label them with "
            f"`ringlens steps {store.address}`."
        )
    rows, gaps, places = [], [], []
    for _, own in steps.groupby("trace_id", sort=True):
        back_S = own["is_backtrack"].eq(True).to_numpy(bool)
        at = np.flatnonzero(back_S)
        places.append((len(own), at))
        gaps.append(np.diff(at))
        for burst in np.split(at, np.flatnonzero(np.diff(at) > within) + 1):
            if len(burst) >= least:
                rows.append(_row(own, burst))
    columns = [*("trace_id", "problem_id", "correct", "first", "last", "backtracks", "pos", "text")]
    frame = pd.DataFrame(rows, columns=columns)
    gap_G = np.concatenate(gaps)
    followed = int((gap_G <= within).sum())
    frame.attrs |= {
        "where": selection.where,
        "traces": len(places),
        "backtracks": sum(len(at) for _, at in places),
        "followed": followed,
        "burstiness": burstiness(gap_G),
    }
    if draws := whole("draws", draws, 0):
        null_B = _followed(places, within, draws, np.random.default_rng(seed))
        as_many = int((null_B >= followed).sum())
        frame.attrs |= {"null": float(null_B.mean()), "p": (as_many + 1) / (draws + 1)}
    return frame


def burstiness(gap_G: NDArray[np.int64]) -> float:
    """(σ − μ) / (σ + μ) of the distances between events; NaN of fewer than two."""
    if len(gap_G) < 2:
        return float("nan")
    mean, spread = float(gap_G.mean()), float(gap_G.std())
    return (spread - mean) / (spread + mean)


def _row(own: pd.DataFrame, burst: NDArray[np.int64]) -> dict[str, object]:
    first, last = own.iloc[burst[0]], own.iloc[burst[-1]]
    about = {name: first[name] for name in ("trace_id", "problem_id", "correct", "pos", "text")}
    return about | {"first": first["step"], "last": last["step"], "backtracks": len(burst)}


def _followed(
    places: list[tuple[int, NDArray[np.int64]]], within: int, draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """How many are followed by another if they fall anywhere, [B]."""
    total_B = np.zeros(draws, np.int64)
    for S, at in places:
        if len(at) < 2:
            continue
        for b in range(draws):
            drawn = np.sort(rng.choice(S, len(at), replace=False))
            total_B[b] += int((np.diff(drawn) <= within).sum())
    return total_B
