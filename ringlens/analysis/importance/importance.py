"""The importance of steps, beside what else explains it.

Published importances are explained by headroom more than by anything else: where the answer is
open, any step can change it. So every measure stands beside the entropy of the answer before the
step, its place, its length, the noise of so few samples, and whether the step comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.analysis.importance import resampling as resampled
from ringlens.analysis.importance import suppression as suppressed
from ringlens.analysis.importance.belief import PROBE as BELIEF
from ringlens.analysis.importance.belief import belief
from ringlens.analysis.importance.results import about_steps, results
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

MEASURES = (
    "suppression", "reach", "answer_suppression", "resampling", "counterfactual", "belief",
)  # fmt: skip
"""Columns that measure importance."""

CONTROLS = ("headroom", "position", "tokens")
"""Columns that explain it without the step."""

_KEYS = ["trace_id", "step"]


@refuse_unknown
def importance(store: Source, run_id: str | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Put together what probes say of the importance of each step, with its controls.

    Args:
        store: The store, with results of some of the probes "suppression", "resampling" and
            "belief".
        run_id: The run; None for all runs.
        seed: Seed of the noise floor.

    Returns:
        A row per trace and step: ``trace_id``, ``problem_id``, ``step``, ``role``,
        ``is_backtrack``; what was measured, NaN elsewhere: ``suppression``, the effect of hiding it
        on later steps, ``reach``, how likely a walk back from the answer comes by it, and
        ``answer_suppression``, the effect on the answer (``answer_log_kl``), see `suppression`;
        ``resampling``, the divergence of the answers behind it from those before, in bits, and
        ``counterfactual``, see `resampling`; ``belief``, how far the probabilities of the candidate
        answers change over it, half the sum of the absolute differences. Its controls:
        ``headroom``, the entropy of the answer before it in nats; ``noise``, the divergence of two
        halves of samples, bits; ``position``, 0 for the first step to 1 for the last; ``tokens``;
        and ``reproduced``, the share of samples that take a step of this kind again; and ``text``.
        ``attrs``: ``measures`` that are there; ``headroom``, the probe that it is of
        ("resampling", or else "belief"); and ``traces``.

    Raises:
        StoreError: None of the probes was run.
    """
    there = {
        probe
        for (probe,) in store.sql("select distinct probe from probes").fetchall()
        if probe in (BELIEF, resampled.PROBE, suppressed.PROBE)
    }
    if not there:
        results(store, suppressed.PROBE, run_id)  # says which command measures
    parts = []
    if suppressed.PROBE in there:
        parts.append(_of_suppression(store, run_id))
    if resampled.PROBE in there:
        parts.append(_of_resampling(store, run_id, seed))
    if BELIEF in there:
        parts.append(_of_belief(store, run_id))
    ids = sorted({int(i) for part in parts for i in part["trace_id"]})
    frame = about_steps(store, ids)
    last = frame.groupby("trace_id")["step"].transform("max")
    first = frame.groupby("trace_id")["step"].transform("min")
    frame["position"] = (frame["step"] - first) / np.maximum(last - first, 1)
    for part in parts:
        frame = frame.merge(part, how="left", on=_KEYS)
    return _ordered(frame)


def _of_suppression(store: Source, run_id: str | None) -> pd.DataFrame:
    found = suppressed.suppression(store, run_id)
    found = found[[*_KEYS, "effect", "reach", "answer_log_kl"]]
    return found.rename(columns={"effect": "suppression", "answer_log_kl": "answer_suppression"})


def _of_resampling(store: Source, run_id: str | None, seed: int) -> pd.DataFrame:
    found = resampled.resampling(store, run_id, seed=seed)
    kept = [*_KEYS, "divergence", "counterfactual", "headroom", "noise", "reproduced"]
    return found[kept].rename(columns={"divergence": "resampling"})


def _of_belief(store: Source, run_id: str | None) -> pd.DataFrame:
    """How far belief changes over each step, and its entropy before."""
    found = results(store, BELIEF, run_id)
    p = found[found["key"].isin(["p", "other"])]
    rows = []
    for trace_id, own in p.groupby("trace_id", sort=True):
        wide = own.assign(unit=own["unit"].fillna(-1)).pivot(
            index="step", columns="unit", values="value"
        )
        change = wide.sort_index().diff().abs().sum(axis=1, skipna=False) / 2
        rows.append(pd.DataFrame({"trace_id": trace_id, "step": change.index, "belief": change}))
    changes = pd.concat(rows).dropna().reset_index(drop=True)
    entropy = belief(store, run_id)[[*_KEYS, "entropy"]]
    entropy["before"] = entropy.groupby("trace_id")["entropy"].shift(1)
    return changes.merge(entropy[[*_KEYS, "before"]], how="left", on=_KEYS)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """One headroom, and columns in their order."""
    for name in (*MEASURES, "headroom", "before", "noise", "reproduced"):
        if name not in frame:
            frame[name] = np.nan
    source = resampled.PROBE if frame["headroom"].notna().any() else BELIEF
    if source == BELIEF:
        frame["headroom"] = frame["before"]
    measures = [name for name in MEASURES if frame[name].notna().any()]
    if not measures:
        raise StoreError("the probes have measured no step: run them on thoughts of several steps.")
    about = ["trace_id", "problem_id", "step", "role", "is_backtrack"]
    kept = [*about, *MEASURES, "headroom", "noise", "position", "tokens", "reproduced", "text"]
    found = frame[kept].copy()
    found.attrs |= {"measures": measures, "headroom": source}
    found.attrs["traces"] = found["trace_id"].nunique()
    return found
