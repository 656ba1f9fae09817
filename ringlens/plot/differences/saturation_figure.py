"""How much of the last checkpoint's routing earlier ones have, over layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import beside, draw_line, line_axes
from ringlens.plot.forms.table import MOST, check, groups, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HIGH = 230


@refuse_unknown
def saturation(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the saturation of each checkpoint over layers, a panel for each group.

    Args:
        frame: A table of `ringlens.analysis.saturation`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line for each checkpoint but the last; bars are 95% intervals over traces,
        if the table has them.

    Raises:
        ConfigError: It is no such table, or has more checkpoints or groups than a figure tells
            apart.
    """
    check(frame, "saturation", "checkpoint", "layer", "tokens", "saturation", "chance", "beyond")
    names = list(frame["checkpoint"].unique())
    if len(names) > MOST:
        raise ConfigError(
            f"{len(names)} checkpoints, and a figure tells {MOST} apart; select some."
        )
    parts, layers = groups(frame), sorted(frame["layer"].unique())
    intervals = {"low", "high"} <= set(frame.columns)
    bars = ["bars: 95% intervals over traces"] if intervals else []
    below = scope(frame, "share of the last checkpoint's experts", *bars)
    head = "Saturation of the router"
    canvas = Canvas(theme, head, below, [_HIGH] * len(parts), legend=True)
    template = (
        "<b>%{text}</b><br>{0:.1%} of the last one's experts<br>{1:.1%} by chance, {2:.2f} beyond "
        "it<br>of {3:,} tokens"
    )
    for row, (group, of_group) in enumerate(parts):
        panel = canvas.panel(row)
        line_axes(canvas, panel, layers, group or "saturation", ".0%", range=[0, 1.03])
        for number, name in enumerate(names):
            rows = of_group[of_group["checkpoint"] == name]
            values = [rows[c].to_numpy() for c in ("saturation", "chance", "beyond", "tokens")]
            ends = {"low": rows["low"], "high": rows["high"]} if intervals else {}
            draw_line(
                canvas, panel, rows["layer"], values[0], (str(name), number),
                said(template, values), legend=row == 0, beside=beside(number, len(names)), **ends,
            )  # fmt: skip
    return canvas.figure()
