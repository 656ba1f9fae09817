"""Which heads look back at a few steps of the thoughts, beyond chance and beyond recency.

Shape letters: U traces, P permutations.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.results import results
from ringlens.analysis.statistics.bootstrap import ratio_interval
from ringlens.analysis.statistics.fdr import q_values
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "receivers"
FOUND = 0.05
"""Largest q-value of a head that is said to look back."""


@refuse_unknown
def receiver_heads(
    store: Source, run_id: str | None = None, *, gap: int = 4, seed: int = 0
) -> pd.DataFrame:
    """Rank heads by how unequally the steps of a thought are looked back at.

    A receiver head (Thought Anchors, arXiv 2506.19143) pays much to a few earlier steps: v_j is the
    mean attention that step j gets from tokens of the steps i ≥ j + gap, and the score is the
    excess kurtosis of v over the steps, the last four left out, averaged over traces. As there, the
    first layer is left out. One tall step among S has a kurtosis of about S − 5 whatever the head
    does, and a head that only looks at what is near has tall steps near the end; so chance and
    recency stand beside the score.

    Args:
        store: The store, with results of the probe "receivers".
        run_id: The run; None for all runs.
        gap: Fewest steps between one that attends and one that is attended to: one of the gaps that
            were measured.
        seed: Seed of the resamples.

    Returns:
        A row per layer and head, the largest score first: ``traces`` with steps enough for a score,
        8 beyond the gap; ``score``; the
        same where each step deals its attention at random among the steps it may look at,
        ``by_chance``, with ``p``, the share of such deals that reach the score, and ``q`` over all
        heads; ``beyond_recency``, the kurtosis of v_j over what it were if attention depended on
        the distance alone; ``recency``, the share of the attention on steps that stays within a
        step (own and previous), with its 95% interval over traces ``low`` and ``high`` (NaN of
        one); and ``prompt``, the mean attention on the prompt. ``attrs["said"]`` sums it up.

    Raises:
        ConfigError: ``gap`` was not measured.
        StoreError: The probe was not run.
    """
    found = results(store, PROBE, run_id)
    found = found[found["layer"] > 0]
    by_key = dict(list(found[found["unit"].notna()].groupby("key")))
    _check_gap(by_key, whole("gap", gap, 1))
    rng = np.random.default_rng(seed)
    beyond, recency, prompt = (
        _by_head(by_key[key]) for key in (f"beyond_recency:{gap}", "recency", "prompt")
    )
    scores = by_key[f"kurtosis:{gap}"]
    nulls = _by_head(scores, "json")
    rows = [
        {
            "layer": layer,
            "head": head,
            **_scored(score_U, nulls[layer, head]),
            "beyond_recency": _mean(beyond[layer, head]),
            **_recency(recency[layer, head], rng),
            "prompt": _mean(prompt[layer, head]),
        }
        for (layer, head), score_U in _by_head(scores).items()
    ]
    frame = pd.DataFrame(rows).sort_values("score", ascending=False, ignore_index=True)
    frame.insert(frame.columns.get_loc("p") + 1, "q", q_values(frame["p"].to_numpy()))
    frame.attrs["said"] = _sentence(frame, gap)
    return frame


def _by_head(rows: pd.DataFrame, column: str = "value") -> dict[tuple[int, int], NDArray]:
    """Values of each layer and head, in order: a frame for each would take ten times as long."""
    layer_R, unit_R = (rows[name].to_numpy(np.int64) for name in ("layer", "unit"))
    order = np.lexsort((unit_R, layer_R))
    heads = np.stack([layer_R, unit_R], axis=1)[order]
    starts = np.flatnonzero((heads[1:] != heads[:-1]).any(axis=1)) + 1
    parts = np.split(rows[column].to_numpy()[order], starts)
    keys = heads[np.append(0, starts)].tolist()
    return {(layer, head): own for (layer, head), own in zip(keys, parts, strict=True)}


def _mean(value_U: NDArray[np.float64]) -> float:
    """Mean of what is known."""
    known = value_U[~np.isnan(value_U)]
    return float(known.mean()) if len(known) else float("nan")


def _scored(score_U: NDArray[np.float64], null_U: NDArray[np.object_]) -> dict[str, Any]:
    """Score of one head over traces, and what chance gives; NaN where no thought has one."""
    known_U = ~np.isnan(score_U)
    if not known_U.any():
        return {"traces": 0, "score": np.nan, "by_chance": np.nan, "p": np.nan}
    null_UP = [json.loads(each) for each in null_U[known_U]]
    draws = min(map(len, null_UP))
    null_P = np.mean([null[:draws] for null in null_UP], axis=0)
    score = float(score_U[known_U].mean())
    p = (1 + int((null_P >= score).sum())) / (1 + draws)
    return {
        "traces": int(known_U.sum()),
        "score": score,
        "by_chance": float(null_P.mean()),
        "p": p,
    }


def _recency(share_U: NDArray[np.float64], rng: np.random.Generator) -> dict[str, float]:
    """Share within a step, and its interval over traces."""
    low = high = float("nan")
    if len(share_U) > 1:
        low, high = ratio_interval(share_U, np.ones(len(share_U)), rng)
    return {"recency": float(share_U.mean()), "low": low, "high": high}


def _check_gap(by_key: dict[str, pd.DataFrame], gap: int) -> None:
    """Refuse a gap that was not measured.

    Raises:
        ConfigError: It was not.
    """
    gaps = sorted(int(key.partition(":")[2]) for key in by_key if key.startswith("kurtosis:"))
    if gap not in gaps:
        raise ConfigError(
            f"gap = {gap} was not measured: there are {', '.join(map(str, gaps))}. Run the probe "
            "again with it among its gaps."
        )


def _sentence(frame: pd.DataFrame, gap: int) -> str:
    """What was found, in words."""
    if not frame["traces"].any():
        return f"no thought has steps enough for a score: it takes 8 beyond the gap of {gap}"
    beyond = frame[frame["q"] <= FOUND]
    told = f"of {len(frame)} heads, {len(beyond)} look back at single steps more than chance gives"
    told += f" (q ≤ {FOUND:g}, {gap} steps apart at least)"
    if beyond.empty:
        return told
    return f"{told}; these keep {beyond['recency'].mean():.0%} of their attention within one step"
