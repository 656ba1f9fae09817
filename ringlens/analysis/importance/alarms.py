"""Alarms of a monitor: which were warranted, and how often it warned in vain.

Shape letter: T tokens of a trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.results import SETTINGS
from ringlens.analysis.importance.targets import CORRECT, values_of
from ringlens.analysis.statistics.share import wilson
from ringlens.analysis.trajectory.chosen_steps import of_thoughts, steps_of
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError, StoreError
from ringlens.store.schema.captured import MONITOR, MONITORED
from ringlens.store.schema.views import literal

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@dataclass(frozen=True)
class Judged:
    """A trace as a monitor judged it, or would.

    Attributes:
        recent: Mean scores of the last tokens of its thought [T]; −inf where there are too few.
        units: Parts of the trace in which an alarm is warranted, each [T]: a token is in one if any
            of the tokens that are judged with it stands in the step that is warned of. Of a target
            of whole traces it is one part.
    """

    recent: NDArray[np.float32]
    units: tuple[NDArray[np.bool_], ...]

    @property
    def warranted(self) -> NDArray[np.bool_]:
        """Whether an alarm is warranted at each token, [T]."""
        found_T = np.zeros(len(self.recent), bool)
        for unit_T in self.units:
            found_T |= unit_T
        return found_T

    @property
    def worst(self) -> float:
        """The highest mean score where no alarm is warranted; −inf where there is none."""
        return float(self.recent[~self.warranted].max(initial=-np.inf))

    def over(self, threshold: float) -> NDArray[np.bool_]:
        """Tokens at which the mean score is above a threshold, [T]."""
        found_T: NDArray[np.bool_] = self.recent > np.float32(threshold)
        return found_T

    def onsets(self, threshold: float) -> NDArray[np.bool_]:
        """Tokens at which it rises above a threshold, [T]: the alarms."""
        over_T = self.over(threshold)
        return over_T & ~np.concatenate(([False], over_T[:-1]))


def judged(
    recent_T: NDArray[np.float32],
    step_T: NDArray[np.int64],
    wanted: Iterable[int],
    window: int,
    *,
    of_traces: bool,
) -> Judged:
    """A trace with what is known of its steps.

    Args:
        recent_T: Mean scores of the last tokens.
        step_T: Step of each token, −1 for none.
        wanted: Steps in which an alarm is warranted.
        window: Tokens that are judged together.
        of_traces: Whether all steps of a trace are of one class.
    """
    steps = list(wanted)
    parts = [steps] if of_traces and steps else [[step] for step in steps]
    units = []
    for part in parts:
        near_T = np.convolve(np.isin(step_T, part), np.ones(window))[: len(step_T)] > 0.5
        units.append(near_T)
    return Judged(recent_T, tuple(units))


def measured(traces: Sequence[Judged], threshold: float) -> dict[str, Any]:
    """Say what a threshold does on some traces.

    Returns:
        ``traces``; ``false``, those with an alarm where none is warranted, their share
        ``per_trace`` with its 95% interval ``low`` and ``high`` (Wilson 1927);
        ``per_1000_tokens``, such alarms by 1,000 ``tokens`` that are judged where none is
        warranted; ``warranted``, parts in which one is, and ``caught``, the share of these with an
        alarm (None without any).
    """
    false = tokens = alarms_ = warranted = caught = 0
    for each in traces:
        free_T, over_T = ~each.warranted, each.over(threshold)
        false += bool((over_T & free_T).any())
        alarms_ += int((each.onsets(threshold) & free_T).sum())
        tokens += int((free_T & np.isfinite(each.recent)).sum())
        warranted += len(each.units)
        caught += sum(bool((over_T & unit_T).any()) for unit_T in each.units)
    low, high = wilson(false, len(traces))
    return {
        "traces": len(traces),
        "false": false,
        "per_trace": false / len(traces),
        "low": low,
        "high": high,
        "per_1000_tokens": 1_000 * alarms_ / tokens if tokens else 0.0,
        "tokens": tokens,
        "warranted": warranted,
        "caught": caught / warranted if warranted else None,
    }


@refuse_unknown
def alarms(store: Source, run_id: str | None = None) -> pd.DataFrame:
    """Read what a monitor warned of, and what became of it.

    Args:
        store: The store, with a run that had a monitor, cut into steps.
        run_id: The run; None for all runs with the same monitor.

    Returns:
        A row per trace: ``trace_id``, ``problem_id``, ``correct``, ``finish_reason``; ``alarms``,
        how often the score rose above the threshold; ``first_alarm``, the token at which it first
        did, its ``step`` and the step's ``role`` (missing: never); ``in_vain``, the alarms where
        none was warranted; ``warranted``, parts in which one was, and ``caught``, those with one
        (these three are missing of a trace that was stopped, or whose target is not known).
        ``attrs``: ``asked``, the chance of a false alarm that the threshold was made for, what
        `measured` says of the traces that are known, ``stopped`` and ``unknown`` traces, the
        ``monitor`` and ``said``.

    Raises:
        StoreError: No run had a monitor, or its traces have no steps.
        ConfigError: Runs had different ones.
    """
    monitor, runs = _monitor(store, run_id)
    where = f"run_id in ({', '.join(map(literal, runs))})"
    steps = steps_of(store, of_thoughts(store, where))
    steps["value"] = values_of(store, monitor["target"], steps)
    tokens = store.sql(
        f"""select trace_id, pos, recent, coalesce(step, -1) as step
        from monitor_scores join token_context using (trace_id, pos)
        where {where} order by trace_id, pos"""
    ).df()
    about = store.sql(
        f"select trace_id, problem_id, correct, finish_reason from traces where {where} "
        "and finish_reason <> 'running' order by trace_id"
    ).df()
    by_step, by_token = (
        dict(list(steps.groupby("trace_id"))),
        dict(list(tokens.groupby("trace_id"))),
    )
    rows, known = [], []
    for row in about.to_dict("records"):
        own = by_step.get(row["trace_id"], steps.iloc[:0])
        each = _judged_trace(monitor, by_token[row["trace_id"]], own)
        told = row["finish_reason"] != MONITORED and own["value"].notna().any()
        if told:
            known.append(each)
        at = by_token[row["trace_id"]]
        rows.append({**row, **_alarms_of(each, monitor["threshold"], at, own, told=told)})
    frame = pd.DataFrame(rows)
    for name in ("first_alarm", "step", "in_vain", "warranted", "caught"):
        frame[name] = frame[name].astype("Int64")
    frame.attrs |= _about(monitor, frame, known)
    return frame


def _monitor(store: Source, run_id: str | None) -> tuple[dict[str, Any], list[str]]:
    """The monitor of some runs, and these."""
    which = "" if run_id is None else " and run_id = ?"
    rows = store.sql(
        f"select run_id, json from probes where probe = '{MONITOR}' and key = '{SETTINGS}'{which}",
        [] if run_id is None else [run_id],
    ).fetchall()
    told = {run: json.loads(text) for run, text in rows}
    if not told:
        raise StoreError(
            "no run of the store had a monitor; capture with one (`ringlens capture MODEL "
            "--monitor FILE`)."
        )
    if len({each["digest"] for each in told.values()}) > 1:
        raise ConfigError(f"runs had different monitors; name one of {', '.join(sorted(told))}.")
    return next(iter(told.values())), sorted(told)


def _judged_trace(monitor: dict[str, Any], tokens: pd.DataFrame, steps: pd.DataFrame) -> Judged:
    wanted = steps.loc[steps["value"].astype(str) == monitor["alarm"], "step"]
    return judged(
        tokens["recent"].to_numpy(np.float32),
        tokens["step"].to_numpy(np.int64),
        map(int, wanted),
        monitor["window"],
        of_traces=monitor["target"] == CORRECT,
    )


def _alarms_of(
    each: Judged, threshold: float, tokens: pd.DataFrame, steps: pd.DataFrame, *, told: bool
) -> dict[str, Any]:
    """The alarms of one trace."""
    onsets_T = each.onsets(threshold)
    found: dict[str, Any] = {"alarms": int(onsets_T.sum()), "first_alarm": None, "step": None}
    found |= {"role": None, "in_vain": None, "warranted": None, "caught": None}
    if onsets_T.any():
        at = tokens.iloc[int(onsets_T.argmax())]
        found |= {"first_alarm": int(at["pos"]), "step": int(at["step"])}
        role = steps.loc[steps["step"] == at["step"], "role"]
        found["role"] = role.iloc[0] if len(role) else None
    if told:
        found["in_vain"] = int((onsets_T & ~each.warranted).sum())
        found["warranted"] = len(each.units)
        found["caught"] = sum(bool((each.over(threshold) & u).any()) for u in each.units)
    return found


def _about(monitor: dict[str, Any], frame: pd.DataFrame, known: Sequence[Judged]) -> dict[str, Any]:
    """Rates over the traces that are known, beside what was promised."""
    stopped = int((frame["finish_reason"] == MONITORED).sum())
    found: dict[str, Any] = {
        "monitor": monitor,
        "asked": monitor["calibrated"].get("asked"),
        "stopped": stopped,
        "unknown": len(frame) - stopped - len(known),
    }
    warned = int((frame["alarms"] > 0).sum())
    said = f"{warned} of {len(frame)} traces have an alarm, {stopped} were stopped"
    if known:
        found |= measured(known, monitor["threshold"])
        caught = found["caught"]
        hits = "" if caught is None else f"; {caught:.0%} of {found['warranted']} warranted caught"
        held = monitor["held_out"].get("per_trace")
        was = "" if held is None else f", {held:.1%} on its held-out problems"
        spread = monitor["calibrated"].get("spread")
        near = "" if spread is None else f", {spread[0]:.1%} to {spread[1]:.1%} of one threshold"
        asked = (
            "" if found["asked"] is None else f" (asked: at most {found['asked']:.1%}{near}{was})"
        )
        said += (
            f"; of {found['traces']} that are known {found['per_trace']:.1%} have one in vain "
            f"({found['low']:.1%} to {found['high']:.1%}){asked}, "
            f"{found['per_1000_tokens']:.2f} by 1,000 tokens{hits}"
        )
    return found | {"said": said}
