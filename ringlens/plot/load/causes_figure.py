"""Why experts were chosen: shares of bias and group limit, margins, and who stands in for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import plural
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import beside, draw_line, line_axes
from ringlens.plot.forms.table import check, grid, groups, one_layer, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HIGH = 190


@refuse_unknown
def selection_causes(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw what decides choices, over layers.

    Args:
        frame: A table of `ringlens.analysis.selection_causes`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of four panels, with a line for each group: shares of choices that the bias and
        the group limit decide, and medians of both margins with bars from 5% to 95% of tokens;
        infinite margins are left out.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    margins = [f"{m}_{q}" for m in ("margin", "group_margin") for q in ("05", "50", "95")]
    check(frame, "selection_causes", "layer", "tokens", "bias_flips", "group_flips", *margins)
    below = scope(frame, "bars: 5% to 95% of tokens")
    canvas = Canvas(theme, "Why experts were chosen", below, [_HIGH, _HIGH], 2, legend=True)
    layers = sorted(frame["layer"].unique())
    shares = {
        "bias_flips": "choices that the bias decides",
        "group_flips": "choices that the group limit decides",
    }
    leads = {
        "margin": "margin of the last chosen expert, score",
        "group_margin": "margin of the last kept group, score",
    }
    for column, name in enumerate(shares.values()):
        line_axes(canvas, canvas.panel(0, column), layers, name, ".0%")
    for column, name in enumerate(leads.values()):
        line_axes(canvas, canvas.panel(1, column), layers, name)
    parts = groups(frame)
    for number, (group, rows) in enumerate(parts):
        for column, name in enumerate(shares):
            template = "<b>%{text}</b><br>{0:.1%} of choices<br>of {1:,} tokens"
            hover = said(template, [rows[name], rows["tokens"]])
            panel, series, first = canvas.panel(0, column), (group, number), column == 0
            draw_line(canvas, panel, rows["layer"], rows[name], series, hover, legend=first)
        for column, name in enumerate(leads):
            low, middle, high = (rows[f"{name}_{q}"].to_numpy() for q in ("05", "50", "95"))
            template = "<b>%{text}</b><br>median {0:.4f}<br>5% {1:.4f}, 95% {2:.4f}"
            hover = said(template, [middle, low, high])
            panel, aside = canvas.panel(1, column), beside(number, len(parts))
            ends = {"low": low, "high": high, "beside": aside}
            draw_line(canvas, panel, rows["layer"], middle, (group, number), hover, **ends)
    return canvas.figure()


@refuse_unknown
def group_displacements(
    frame: pd.DataFrame, *, layer: int | None = None, theme: str | None = None
) -> Figure:
    """Draw which experts stand in for those that the group limit kept out, on one layer.

    Args:
        frame: A table of `ringlens.analysis.group_displacements`.
        layer: The layer; None for the one with the most displacements.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of times for each group.

    Raises:
        ConfigError: It is no such table, has no such layer, or has more groups than a figure tells
            apart.
    """
    check(frame, "group_displacements", "layer", "expert", "stand_in", "n")
    shown, rows = one_layer(frame, layer)
    experts = int(frame[["expert", "stand_in"]].to_numpy().max()) + 1
    parts = groups(rows)
    columns = min(3, len(parts))
    below = scope(frame, f"layer {shown}", plural(int(rows["n"].sum()), "displacement"))
    heights = [300.0] * (-(-len(parts) // columns))
    head = "Experts kept out by the group limit, and those chosen instead"
    canvas = Canvas(theme, head, below, heights, columns, bottom=maps.ROOM)
    for place, (name, part) in enumerate(parts):
        panel = canvas.panel(*divmod(place, columns))
        canvas.name(panel, name)
        kept_out = "kept out" if place % columns == 0 else ""
        maps.expert_axes(canvas, panel, experts, "chosen instead", kept_out, 24 / columns)
        n = grid(part, "expert", "stand_in", "n", range(experts), experts)
        hover = said("<b>E%{y}</b> kept out, <b>E%{x}</b> chosen instead<br>{0:,} times", [n])
        maps.draw_map(canvas, panel, n, range(experts), hover)
    most = float(np.nanmax(rows["n"]))
    maps.colour_scale(canvas, maps.Scale(0, most, "times", form=",d"))
    return canvas.figure()
