"""What hiding a step does to the steps behind it, and to the answer.

Shape letter: S steps of a trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.importance.results import about_steps, results
from ringlens.config import refuse_unknown

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "suppression"


@refuse_unknown
def suppression_matrix(store: Source, run_id: str | None = None) -> pd.DataFrame:
    """Read how far each step changes if an earlier one is hidden (arXiv 2506.19143).

    Args:
        store: The store, with results of the probe "suppression".
        run_id: The run; None for all runs.

    Returns:
        A row per trace and pair of steps: ``trace_id``; ``step``, and ``changed_step`` before it,
        which was hidden; ``log_kl``, the mean over the tokens of the step of ln(KL(as it is ‖
        without) + 1e-9), what each token foretells being compared; and ``effect``, log_kl less its
        mean over all hidden steps, so that a step that anything changes counts no more.

    Raises:
        StoreError: The probe was not run.
    """
    return _pairs(results(store, PROBE, run_id))


def _pairs(found: pd.DataFrame) -> pd.DataFrame:
    """The table of `suppression_matrix`, from results of the probe."""
    rows = found[found["key"] == "log_kl"]
    frame = rows[["trace_id", "step", "changed_step", "value"]].rename(columns={"value": "log_kl"})
    frame["step"] = frame["step"].astype(int)
    frame["changed_step"] = frame["changed_step"].astype(int)
    mean = frame.groupby(["trace_id", "step"])["log_kl"].transform("mean")
    frame["effect"] = frame["log_kl"] - mean
    return frame.reset_index(drop=True)


@refuse_unknown
def suppression(store: Source, run_id: str | None = None) -> pd.DataFrame:
    """Read what hiding each step does.

    Args:
        store: The store, with results of the probe "suppression".
        run_id: The run; None for all runs.

    Returns:
        A row per trace and step: ``trace_id``, ``problem_id``, ``step``, ``role``; ``effect``, the
        mean over all later steps of their ``effect`` in `suppression_matrix` (NaN of the last, and
        of the only step before another); ``later``, how many these are; ``answer_log_kl``, the same
        logarithm over the tokens of the answer, and ``answer_drop``, how far the log-probability of
        the answer falls, in nats (both NaN where there is no answer); and ``reach``, how likely a
        walk back from the answer comes by the step, each time going from where it is to an earlier
        step in proportion to exp(log_kl) (NaN of the first step, where all walks end). ``attrs``:
        ``traces`` and ``said``.

    Raises:
        StoreError: The probe was not run.
    """
    found = results(store, PROBE, run_id)
    keys = ["trace_id", "step"]
    about = about_steps(store, [int(i) for i in found["trace_id"].unique()])
    frame = about[["trace_id", "problem_id", "step", "role", "text"]]
    pairs = _pairs(found)
    # The only step before another has nothing to be compared with.
    compared = pairs[pairs.groupby(keys)["effect"].transform("size") > 1]
    by_step = compared.groupby(["trace_id", "changed_step"])["effect"].agg(["mean", "size"])
    by_step = by_step.rename(columns={"mean": "effect", "size": "later"})
    by_step = by_step.rename_axis(keys).reset_index()
    frame = frame.merge(by_step, how="left", on=keys)
    for key in ("answer_log_kl", "answer_drop"):
        named = found[found["key"] == key][["trace_id", "changed_step", "value"]]
        named = named.rename(columns={"changed_step": "step", "value": key})
        frame = frame.merge(named, how="left", on=keys)
    frame["later"] = frame["later"].fillna(0).astype(int)
    walks = [
        _reach(own, pairs[pairs["trace_id"] == trace])
        for trace, own in frame.groupby("trace_id", sort=False)
    ]
    frame["reach"] = pd.concat(walks)
    frame = frame[[name for name in frame if name != "text"] + ["text"]]
    frame.attrs["traces"] = traces = frame["trace_id"].nunique()
    first = frame.groupby("trace_id")["answer_drop"].max()
    frame.attrs["said"] = (
        f"{traces} thoughts, {len(frame)} steps hidden; hiding the step that does most takes "
        f"{first.mean():.2f} nats from the answer on average"
    )
    return frame


def _reach(steps: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """How likely a walk back from the answer comes by each step of one trace."""
    place = {int(step): at for at, step in enumerate(steps["step"])}
    log_SS = np.full((len(place), len(place)), -np.inf)  # [later, hidden]
    log_SS[pairs["step"].map(place), pairs["changed_step"].map(place)] = pairs["log_kl"]
    reach_S = np.zeros(len(place))
    answer_S = steps["answer_log_kl"].to_numpy(np.float64)
    if np.isfinite(answer_S).all():
        reach_S += _shares(answer_S)
    else:  # without an answer a walk begins at the last step
        reach_S[-1] = 1.0
    for later in range(len(place) - 1, 0, -1):
        if np.isfinite(log_SS[later]).any():
            reach_S += reach_S[later] * _shares(log_SS[later])
    reach_S[0] = np.nan
    return pd.Series(reach_S, index=steps.index)


def _shares(log_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of exp(log), which add up to 1."""
    weight_S = np.exp(log_S - log_S.max())
    shares: NDArray[np.float64] = weight_S / weight_S.sum()
    return shares
