"""Belief along thoughts: which answer a model held after each step, and how firmly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.analysis.importance.results import results
from ringlens.config import refuse_unknown

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "belief"


@refuse_unknown
def belief(store: Source, run_id: str | None = None) -> pd.DataFrame:
    """Read what the model would have answered after each step of each thought.

    Args:
        store: The store, with results of the probe "belief".
        run_id: The run; None for all runs.

    Returns:
        A row per trace and place: ``trace_id``, ``problem_id``; ``step`` before it, -1 of the
        place before the first, and its ``role``; ``answer``, the candidate with the highest
        probability there, and this, ``p``; ``correct``, whether it is right; ``is_final``, whether
        it is the answer that the thought gave in the end (missing where that gave none);
        ``p_final`` and ``p_correct``, probabilities of the final answer and of all right
        candidates (NaN where there is none); ``other``, that of all answers that are no candidates;
        ``held``, whether p > other, so that no answer is more probable; and ``entropy`` of the
        answer, in nats (NaN where no answers were drawn).

    Raises:
        StoreError: The probe was not run.
    """
    found = results(store, PROBE, run_id)
    candidates = _candidates(found)
    about = store.sql(
        "select trace_id, problem_id from traces where trace_id in (select trace_id from probes "
        f"where probe = '{PROBE}')"
    ).df()
    roles = store.sql("select trace_id, step, role from steps").df()
    told = found[found["key"] == "p"].merge(candidates, on=["trace_id", "unit"])
    frame = _places(told).merge(about, on="trace_id")
    for key in ("other", "entropy"):
        named = found[found["key"] == key][["trace_id", "step", "value"]]
        named = named.rename(columns={"value": key})
        frame = frame.merge(named, how="left", on=["trace_id", "step"])
    frame = frame.merge(roles, how="left", on=["trace_id", "step"])
    frame["is_final"] = frame["is_final"].astype("boolean")
    order = ["trace_id", "problem_id", "step", "role", "answer", "p", "correct", "is_final"]
    frame["held"] = frame["p"] > frame["other"]
    return frame[[*order, "p_final", "p_correct", "other", "held", "entropy"]]


def _candidates(found: pd.DataFrame) -> pd.DataFrame:
    """The candidate answers of each trace."""
    rows = found[found["key"] == "candidate"]
    said = pd.DataFrame([json.loads(text) for text in rows["json"]], index=rows.index)
    return pd.concat([rows[["trace_id", "unit"]], said], axis=1)


def _places(told: pd.DataFrame) -> pd.DataFrame:
    """What is believed at each place: a row per trace and step, from one per candidate."""
    keys = [told["trace_id"], told["step"]]
    value, final = told["value"], told["final"].astype(bool)
    best = told.loc[value.groupby(keys, sort=True).idxmax()]
    has_final = final.groupby(keys, sort=True).any().to_numpy()
    known = told["correct"].notna().groupby(keys, sort=True).any().to_numpy()
    p_final = value.where(final, 0).groupby(keys, sort=True).sum().to_numpy()
    right = value.where(told["correct"].eq(True), 0)
    p_correct = right.groupby(keys, sort=True).sum().to_numpy()
    is_final = best["final"].astype(object).where(has_final, None)
    return pd.DataFrame(
        {
            "trace_id": best["trace_id"].astype(int).to_list(),
            "step": best["step"].astype(int).to_list(),
            "answer": best["answer"].to_list(),
            "p": best["value"].astype(float).to_list(),
            "correct": best["correct"].to_list(),
            "is_final": is_final.to_list(),
            "p_final": np.where(has_final, p_final, np.nan),
            "p_correct": np.where(known, p_correct, np.nan),
        }
    )
