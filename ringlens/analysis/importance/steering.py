"""What steering did: role frequencies, accuracy and lengths, beside random directions.

Shape letters: P problems, B resamples, R random directions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.results import SETTINGS, results
from ringlens.analysis.statistics.bootstrap import DRAWS
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "steering"

ACCURACY, BACKTRACKS, TOKENS, STOPPED = "accuracy", "backtracks", "thought", "stopped"
"""Measures beside the roles of steps."""

Counts = tuple[NDArray[np.float64], NDArray[np.float64]]
"""What each problem adds to the numerator and the denominator of a measure, [P] each."""


@refuse_unknown
def steering(
    store: Source, run_id: str | None = None, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Read what a direction did to thoughts and answers.

    A measure is a sum over all problems divided by another: right answers by problems, steps of a
    role by steps.

    Args:
        store: The store, with results of the probe "steering".
        run_id: The run; None for all runs.
        draws: Resamples of problems for the intervals.
        seed: Seed of the resamples.

    Returns:
        A row per measure and strength: ``measure`` ("accuracy"; "backtracks", the share of steps
        that go back; the share of steps of each role, by its name; "thought", tokens of a thought;
        "stopped", the share of texts that end by themselves), ``strength``; ``plain``, the measure
        of the model as it is, and ``steered``; ``change`` = steered − plain with its 95% interval
        over problems ``low`` and ``high`` (NaN of one problem); ``random``, the mean change of
        random directions of the same length, and ``random_least`` and ``random_most`` of them;
        ``beyond`` = change − random with its interval over problems ``beyond_low`` and
        ``beyond_high``; and ``p``, the share of random directions that change the measure by as
        much to either side, the one in question counted with them. ``attrs``: ``problems``,
        ``randoms``, ``a``, ``b``, ``layer`` and ``said``.

    Raises:
        StoreError: The probe was not run.
        ConfigError: The runs were steered by different directions.
    """
    whole("draws", draws, 1)
    found = results(store, PROBE, run_id)
    settings = _settings(found)
    rows = _texts(found)
    rng = np.random.default_rng(seed)
    P = rows["trace_id"].nunique()
    times_BP = rng.multinomial(P, np.full(P, 1 / P), size=draws).astype(np.float64)
    frame = pd.DataFrame(
        [
            {"measure": measure, "strength": strength, **_compared(plain, own, others, times_BP)}
            for measure, counts in _measures(rows)
            for strength, plain, own, others in _variants(counts, settings)
        ]
    )
    about = {name: settings[name] for name in ("a", "b", "layer", "randoms")}
    frame.attrs |= {"problems": P, **about}
    frame.attrs["said"] = _sentence(frame)
    return frame


def _settings(found: pd.DataFrame) -> dict[str, Any]:
    told = found.loc[found["key"] == SETTINGS, "json"].unique()
    if len(told) > 1:
        raise ConfigError(
            f"traces of this store were steered with {len(told)} different settings; name a run "
            "(run_id), or steer all of them anew with --again."
        )
    settings: dict[str, Any] = json.loads(told[0])
    return settings


def _texts(found: pd.DataFrame) -> pd.DataFrame:
    """A row per text: trace, direction (-1: none), strength, and what was read of it."""
    rows = found[found["key"] != SETTINGS]
    said = pd.DataFrame([json.loads(text) for text in rows["json"]], index=rows.index)
    unit = rows["unit"].astype("Int64").fillna(-1).astype(int)
    return said.assign(trace_id=rows["trace_id"], unit=unit, correct=rows["value"])


def _measures(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each measure: numerator and denominator of each text."""
    one = pd.Series(1.0, index=rows.index)
    graded = rows["correct"].notna()
    if graded.any():
        yield ACCURACY, _counts(rows, rows["correct"].fillna(0.0), graded.astype(float))
    steps = rows["steps"].astype(float)
    yield BACKTRACKS, _counts(rows, rows["backtracks"].astype(float), steps)
    for role in sorted({role for roles in rows["roles"] for role in roles}):
        n = rows["roles"].map(lambda roles, role=role: float(roles.get(role, 0)))
        yield role, _counts(rows, n, steps)
    yield TOKENS, _counts(rows, rows["thought"].astype(float), one)
    yield STOPPED, _counts(rows, rows["stopped"].astype(float), one)


def _counts(rows: pd.DataFrame, over: pd.Series, under: pd.Series) -> pd.DataFrame:
    """By direction and strength, and trace: numerator and denominator."""
    table = rows[["unit", "strength", "trace_id"]].assign(over=over, under=under)
    return table.set_index(["unit", "strength", "trace_id"]).sort_index()


def _variants(
    counts: pd.DataFrame, settings: dict[str, Any]
) -> Iterator[tuple[float, Counts, Counts, list[Counts]]]:
    """Each strength: the model as it is, steered, and steered by random directions."""
    plain = _of(counts, -1, 0.0)
    for strength in sorted(settings["strengths"]):
        others = [_of(counts, 1 + r, strength) for r in range(settings["randoms"])]
        yield strength, plain, _of(counts, 0, strength), others


def _of(counts: pd.DataFrame, unit: int, strength: float) -> Counts:
    part = counts.loc[unit, strength]
    return part["over"].to_numpy(), part["under"].to_numpy()


def _compared(
    plain: Counts, own: Counts, others: list[Counts], times_BP: NDArray[np.float64]
) -> dict[str, float]:
    """A measure of the model as it is, steered, and steered by random directions."""
    once_1P = np.ones((1, times_BP.shape[1]))
    base, steered = _ratio(plain, once_1P)[0], _ratio(own, once_1P)[0]
    random_R = np.array([_ratio(each, once_1P)[0] - base for each in others])
    change_B = _ratio(own, times_BP) - _ratio(plain, times_BP)
    random_B = np.mean([_ratio(each, times_BP) for each in others], axis=0)
    beyond_B = change_B - (random_B - _ratio(plain, times_BP))
    change = steered - base
    low, high = _ends(change_B)
    beyond_low, beyond_high = _ends(beyond_B)
    return {
        "plain": base,
        "steered": steered,
        "change": change,
        "low": low,
        "high": high,
        "random": float(random_R.mean()),
        "random_least": float(random_R.min()),
        "random_most": float(random_R.max()),
        "beyond": change - float(random_R.mean()),
        "beyond_low": beyond_low,
        "beyond_high": beyond_high,
        "p": (1 + int((np.abs(random_R) >= abs(change)).sum())) / (1 + len(random_R)),
    }


def _ratio(counts: Counts, times_BP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over sum of each resample [B]; NaN where there is nothing to divide by."""
    over_B, under_B = times_BP @ counts[0], times_BP @ counts[1]
    found_B = np.full(len(over_B), np.nan)
    return np.divide(over_B, under_B, out=found_B, where=under_B > 0)


def _ends(values_B: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the 95% interval; NaN where all resamples are the same problem."""
    known_B = values_B[~np.isnan(values_B)]
    if not len(known_B):
        return float("nan"), float("nan")
    low, high = np.percentile(known_B, [2.5, 97.5])
    return float(low), float(high)


def _sentence(frame: pd.DataFrame) -> str:
    """What the strongest push did to accuracy and to going back."""
    about = frame.attrs
    most = float(frame.loc[frame["strength"].abs().idxmax(), "strength"])
    told = []
    for measure in (ACCURACY, BACKTRACKS):
        rows = frame[(frame["measure"] == measure) & (frame["strength"] == most)]
        for row in rows.to_dict("records"):
            told.append(
                f"{measure} {row['plain']:.1%} becomes {row['steered']:.1%} (random directions "
                f"{row['random']:+.1%}; beyond them {row['beyond']:+.1%}, {row['beyond_low']:+.1%} "
                f"to {row['beyond_high']:+.1%})"
            )
    return (
        f"{about['problems']} problems steered in layer {about['layer']} from {about['b']!r:.60} "
        f"to {about['a']!r:.60}, {about['randoms']} random directions beside it; at strength "
        f"{most:g} {'; '.join(told)}"
    )
