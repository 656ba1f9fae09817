"""The load of every expert against its baseline, as a map of layer × expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid, groups, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@refuse_unknown
def expert_load(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the lift of every expert, a map for each group.

    Args:
        frame: A table of `ringlens.analysis.expert_load`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure whose colours are the binary logarithm of the lift, cut at a quarter and at four
        times; blank where the baseline is 0.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "expert_load", "layer", "expert", "n", "tokens", "share", "baseline", "lift")
    parts = groups(frame)
    layers, experts = sorted(frame["layer"].unique()), int(frame["expert"].max()) + 1
    high = maps.row_height(len(layers) * min(2, len(parts))) * len(layers)
    against = frame.attrs.get("baseline")
    below = scope(frame, f"against {against}" if against else "against even load, k / E")
    canvas = Canvas(theme, "Load of each expert", below, [high] * len(parts), bottom=maps.ROOM)
    template = (
        "<b>L%{y:d} · E%{x}</b><br>{0:.2%} of tokens chose it ({1:,} of {2:,})<br>"
        "lift {3:.2f} over {4:.2%}"
    )
    columns = ["share", "n", "tokens", "lift", "baseline"]
    if {"low", "high"} <= set(frame.columns):
        columns += ["low", "high"]
        template += "<br>95% interval over traces {5:.2%} to {6:.2%}"
    for row, (name, rows) in enumerate(parts):
        values = {c: grid(rows, "layer", "expert", c, layers, experts) for c in columns}
        panel = canvas.panel(row)
        canvas.name(panel, name)
        maps.layer_axes(canvas, panel, layers, experts, "expert" if row == len(parts) - 1 else "")
        hover = said(template, list(values.values()))
        maps.draw_map(canvas, panel, maps.log2_lift(values["lift"]), layers, hover)
    scale = maps.lift_scale("lift: share of tokens that chose it, over the baseline")
    maps.colour_scale(canvas, scale)
    return canvas.figure()
