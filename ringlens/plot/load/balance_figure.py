"""How evenly layers use their experts, and how decided their routers are, over layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import beside, draw_line, line_axes
from ringlens.plot.forms.table import check, groups, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HIGH = 250


@refuse_unknown
def layer_balance(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw three measures of balance over layers, a line for each group.

    Args:
        frame: A table of `ringlens.analysis.layer_balance`.
        theme: "light" or "dark"; None follows plotly's default template.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "layer_balance", "layer", "max_violation", "gini", "never_chosen", "tokens")
    frame = frame.assign(never=frame["never_chosen"].map(len))
    below = scope(frame, "0 is even use of all experts")
    canvas = Canvas(theme, "Balance of layers", below, [_HIGH], 3, legend=True)
    layers = sorted(frame["layer"].unique())
    panels = [
        ("max_violation", "MaxVio: max load / mean − 1", "", "MaxVio {0:.2f}"),
        ("gini", "Gini of loads, 0 to 1", "", "Gini {0:.3f}"),
        ("never", "experts never chosen", ",d", "{0:,} experts never chosen"),
    ]
    for place, (column, name, form, words) in enumerate(panels):
        panel = canvas.panel(0, place)
        few = {"dtick": 1} if column == "never" and frame["never"].max() < 6 else {"nticks": 5}
        line_axes(canvas, panel, layers, name, form, **few)
        for number, (group, rows) in enumerate(groups(frame)):
            template = f"<b>%{{text}}</b><br>{words}<br>of {{1:,}} tokens"
            hover = said(template, [rows[column], rows["tokens"]])
            series, legend = (group, number), place == 0
            draw_line(canvas, panel, rows["layer"], rows[column], series, hover, legend=legend)
    return canvas.figure()


@refuse_unknown
def router_entropy(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the entropy of the router's scores and of its weights over layers.

    Args:
        frame: A table of `ringlens.analysis.router_entropy`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line for each group. Bars are a standard deviation over tokens.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "router_entropy", "layer", "entropy", "deviation", "weight_entropy", "tokens")
    below = scope(frame, "bars: a standard deviation over tokens")
    canvas = Canvas(theme, "How decided the router is", below, [_HIGH + 40], 2, legend=True)
    layers = sorted(frame["layer"].unique())
    left, right = canvas.panel(0), canvas.panel(0, 1)
    # From 0, layers that are nearly undecided would look alike.
    line_axes(canvas, left, layers, "entropy of scores, nats", rangemode="normal")
    line_axes(canvas, right, layers, "entropy of weights of the chosen, nats", rangemode="normal")
    parts = groups(frame)
    for number, (group, rows) in enumerate(parts):
        score, spread = rows["entropy"].to_numpy(), rows["deviation"].to_numpy()
        template = "<b>%{text}</b><br>{0:.3f} ± {1:.3f} nats over all experts<br>of {2:,} tokens"
        hover = said(template, [score, spread, rows["tokens"]])
        aside = beside(number, len(parts))
        ends = {"low": score - spread, "high": score + spread, "beside": aside}
        draw_line(canvas, left, rows["layer"], score, (group, number), hover, legend=True, **ends)
        weight = np.asarray(rows["weight_entropy"])
        template = "<b>%{text}</b><br>{0:.3f} nats over the chosen<br>of {1:,} tokens"
        hover = said(template, [weight, rows["tokens"]])
        draw_line(canvas, right, rows["layer"], weight, (group, number), hover)
    return canvas.figure()
