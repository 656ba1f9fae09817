"""What the selection bias does: over layers, and to each expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import beside, draw_line, line_axes
from ringlens.plot.forms.table import check, grid, groups, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HIGH = 250


@refuse_unknown
def bias_audit(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw what the bias decides, and how even the load is with it and without, over layers.

    Args:
        frame: A table of `ringlens.analysis.bias_audit`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of three panels with a line for each group: the share of choices that the bias
        decides, with 95% intervals if the table has them; and MaxVio with the bias and with a bias
        of zero, on one scale (no line where router logits were not recorded).

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    balance = ("max_violation", "max_violation_unbiased")
    check(frame, "bias_audit", "layer", "tokens", "flips", *balance)
    intervals = {"low", "high"} <= set(frame.columns)
    below = scope(frame, *(["bars: 95% intervals over traces"] if intervals else []))
    canvas = Canvas(theme, "What the selection bias does", below, [_HIGH], 3, legend=True)
    layers, parts = sorted(frame["layer"].unique()), groups(frame)
    most = 1.1 * float(np.nanmax(frame[list(balance)].to_numpy()))
    line_axes(canvas, canvas.panel(0), layers, "choices that the bias decides", ".0%")
    for column, name in enumerate(("MaxVio with the bias", "MaxVio with a bias of zero"), 1):
        line_axes(canvas, canvas.panel(0, column), layers, name, range=[0, most])
    for number, (group, rows) in enumerate(parts):
        series, tokens = (group, number), rows["tokens"].to_numpy()
        aside = beside(number, len(parts)) if intervals else 0.0
        ends = {"low": rows["low"], "high": rows["high"]} if intervals else {}
        hover = said(
            "<b>%{text}</b><br>{0:.1%} of choices<br>of {1:,} tokens", [rows["flips"], tokens]
        )
        draw_line(
            canvas, canvas.panel(0), rows["layer"], rows["flips"].to_numpy(), series, hover,
            legend=True, beside=aside, **ends,
        )  # fmt: skip
        for column, name in enumerate(balance, 1):
            values = rows[name].to_numpy()
            hover = said("<b>%{text}</b><br>MaxVio {0:.2f}<br>of {1:,} tokens", [values, tokens])
            draw_line(canvas, canvas.panel(0, column), rows["layer"], values, series, hover)
    return canvas.figure()


@refuse_unknown
def expert_bias(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the bias of every expert, and the share of tokens that it brings or takes.

    Args:
        frame: A table of `ringlens.analysis.expert_bias`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the change of load for each group; of the bias itself where router
        logits, which tell the change, were not recorded.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    columns = ("change", "bias", "n", "tokens", "flips", "unbiased")
    check(frame, "expert_bias", "layer", "expert", *columns)
    known = bool(np.isfinite(frame["change"]).any())
    drawn, name, form = (
        ("change", "share of tokens that the bias brings or takes", "+.0%")
        if known
        else ("bias", "selection bias, in units of the score", "+.2f")
    )
    template = (
        "<b>L%{y:d} · E%{x}</b><br>bias {0:+.4f}<br>chosen by {1:,} of {2:,} tokens, {3:,} times "
        "by the bias"
    )
    shown = ["bias", "n", "tokens", "flips"]
    if known:
        template += "<br>with a bias of zero by {4:,}: {5:+.2%} of tokens"
        shown += ["unbiased", "change"]
    parts = groups(frame)
    layers, experts = sorted(frame["layer"].unique()), int(frame["expert"].max()) + 1
    high = maps.row_height(len(layers) * min(2, len(parts))) * len(layers)
    head = "What the selection bias does to each expert"
    canvas = Canvas(theme, head, scope(frame), [high] * len(parts), bottom=maps.ROOM)
    for row, (group, rows) in enumerate(parts):
        panel = canvas.panel(row)
        canvas.name(panel, group)
        values = [grid(rows, "layer", "expert", c, layers, experts) for c in shown]
        hover = said(template, values)
        maps.layer_axes(canvas, panel, layers, experts, "expert" if row == len(parts) - 1 else "")
        drawing = grid(rows, "layer", "expert", drawn, layers, experts)
        maps.draw_map(canvas, panel, drawing, layers, hover)
    edge = float(np.nanquantile(frame[drawn].abs(), 0.995)) or 1.0
    maps.colour_scale(canvas, maps.Scale(-edge, edge, name, True, form=form))
    return canvas.figure()
