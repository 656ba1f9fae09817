"""Confidence of a thought over windows of its tokens (DeepConf, arXiv 2508.15260).

There, the confidence of a token is C = −(1/k) Σ ln p over the k most likely tokens, which takes
their log-probabilities; a store keeps the entropy over the whole vocabulary and the log-probability
of the token that was drawn. So what stands in for C is −H, by the paper's own measure of a token's
uncertainty, or ln p of the token. Groups, bottom and tail are as in the paper.

Shape letters: T tokens of a trace, W windows, B orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.trajectory.chosen_steps import of_thoughts
from ringlens.config import known_only, refuse_unknown, whole
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

WINDOW = 2048
"""Tokens of a window, as in the paper."""

BOTTOM = 0.1
"""Part of the windows that are the bottom."""

DRAWS = 20
"""Random orders of a trace's tokens."""

MEASURES = {"entropy": "-entropy", "logprob": "logprob"}
"""What stands in for a token's confidence, in SQL; both in nats, 0 for certainty."""


@refuse_unknown
def confidence_windows(
    store: Source,
    where: str | None = None,
    *,
    measure: str = "entropy",
    window: int = WINDOW,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the confidence of each thought, and of its least confident windows.

    Args:
        store: The store.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase. Tokens without an entropy or a log-probability are left out.
        measure: "entropy" for C = −H, or "logprob" for C = ln p of the token.
        window: Tokens of a window; all that a trace has where these are fewer.
        draws: Random orders of a trace's tokens, for the null; 0 for none.
        seed: Seed of these.

    Returns:
        A row per trace: ``trace_id``, ``problem_id``, ``correct``, ``tokens``; ``windows``, one
        for each token that ends one; ``confidence``, the mean of C, nats; ``lowest``, the mean
        over the least confident window, and ``lowest_pos``, its first position; ``bottom``, the
        mean over the tenth of windows that is least confident; and ``tail``, the mean over the last
        window. With draws also ``null``, the mean lowest window if the tokens come in random order,
        and ``p``, the share of orders whose lowest is as low, the data counted. ``attrs``:
        ``where``, ``measure``, ``window`` and ``traces``.

    Raises:
        ConfigError: A predicate or a setting is wrong.
        StoreError: No token with such a record is selected.
    """
    known_only([measure], MEASURES, "measure")
    window, draws = whole("window", window, 1), whole("draws", draws, 0)
    selection, rng = of_thoughts(store, where), np.random.default_rng(seed)
    tokens = store.sql(
        f"""select trace_id, problem_id, correct, pos, {MEASURES[measure]} as c
        from token_context where ({selection.where}\n) and {measure} is not null
        order by trace_id, pos"""
    ).df()
    if tokens.empty:
        raise StoreError(
            f"no token selected by {selection.where!r:.200} has a record of {measure}; record "
            "'logprobs' when you capture or replay."
        )
    rows = []
    for trace_id, own in tokens.groupby("trace_id", sort=True):
        about = {"trace_id": trace_id, **own.iloc[0][["problem_id", "correct"]].to_dict()}
        rows.append(about | _measured(own, window, draws, rng))
    frame = pd.DataFrame(rows)
    frame.attrs |= {"where": selection.where, "measure": measure, "window": window}
    frame.attrs["traces"] = len(frame)
    return frame


def window_means(c_T: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Means over all windows of so many successive tokens, [..., W]; of all tokens if fewer."""
    width = min(window, c_T.shape[-1])
    sums = np.cumsum(c_T, axis=-1)
    first = sums[..., width - 1 : width]
    return np.concatenate([first, sums[..., width:] - sums[..., :-width]], axis=-1) / width


def _measured(
    own: pd.DataFrame, window: int, draws: int, rng: np.random.Generator
) -> dict[str, float]:
    """Measures of one trace."""
    c_T = own["c"].to_numpy(np.float64)
    mean_W = window_means(c_T, window)
    lowest = int(mean_W.argmin())
    least = np.sort(mean_W)[: max(1, int(BOTTOM * len(mean_W)))]
    found = {
        "tokens": len(c_T),
        "windows": len(mean_W),
        "confidence": float(c_T.mean()),
        "lowest": float(mean_W[lowest]),
        "lowest_pos": int(own["pos"].iloc[lowest]),
        "bottom": float(least.mean()),
        "tail": float(mean_W[-1]),
    }
    if draws:
        null_B = np.array([window_means(rng.permutation(c_T), window).min() for _ in range(draws)])
        as_low = int((null_B <= mean_W[lowest] + 1e-9).sum())
        found |= {"null": float(null_B.mean()), "p": (as_low + 1) / (draws + 1)}
    return found
