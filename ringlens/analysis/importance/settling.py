"""In which layer what a thought says is settled, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.analysis.importance.results import about_steps, results
from ringlens.config import number, refuse_unknown

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

PROBE = "logit_lens"

DEEP = 0.85
"""Part of the layers behind which a token counts as deep, as in arXiv 2602.13517."""


@refuse_unknown
def settling(store: Source, run_id: str | None = None, *, deep: float = DEEP) -> pd.DataFrame:
    """Read how deep the tokens of each step are settled.

    Args:
        store: The store, with results of the probe "logit_lens".
        run_id: The run; None for all runs.
        deep: Part of the layers from which on a settling depth counts as deep.

    Returns:
        A row per trace and step: ``trace_id``, ``problem_id``, ``step``, ``role``, ``tokens``;
        ``depth``, the mean settling depth of its tokens, the first layer being 0; ``deep``, the
        share of its tokens that settle at ``deep`` · layers or later; and ``divergence``, a list
        with the mean divergence behind each layer, in bits. ``attrs``: ``layers``; ``deep``, the
        first layer that counts as deep; ``traces``; and ``said``.

    Raises:
        StoreError: The probe was not run.
    """
    deep = number("deep", deep, 0, 1)
    found = results(store, PROBE, run_id)
    along = found[found["key"] == "divergence"].sort_values("layer")
    layers = int(along["layer"].max()) + 1
    first = int(np.ceil(deep * (layers - 1)))
    depths = found[found["key"] == "depth"].assign(is_deep=lambda rows: rows["value"] >= first)
    keys = ["trace_id", "step"]
    frame = depths.groupby(keys).agg(
        tokens=("value", "size"), depth=("value", "mean"), deep=("is_deep", "mean")
    )
    frame["divergence"] = along.groupby(keys)["value"].agg(list)
    about = about_steps(store, [int(i) for i in found["trace_id"].unique()])
    frame = about[[*keys, "problem_id", "role"]].merge(frame.reset_index(), on=keys)
    mean = float((frame["depth"] * frame["tokens"]).sum() / frame["tokens"].sum())
    share = float((frame["deep"] * frame["tokens"]).sum() / frame["tokens"].sum())
    traces = frame["trace_id"].nunique()
    frame.attrs |= {"layers": layers, "deep": first, "traces": traces}
    frame.attrs["said"] = (
        f"{traces} thoughts: tokens settle in layer {mean:.1f} of {layers - 1} on average, "
        f"{share:.0%} of them in layer {first} or later"
    )
    return frame
