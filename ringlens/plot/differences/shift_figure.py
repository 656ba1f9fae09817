"""How far routing moves: between two selections over layers, and along a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import draw_line, line_axes
from ringlens.plot.forms.table import check, groups, scope
from ringlens.plot.heatmap import ticks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@refuse_unknown
def routing_shift(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the divergence of two selections' experts over layers, beside that of chance.

    Args:
        frame: A table of `ringlens.analysis.routing_shift`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with two lines for each group: the divergence with its 95% interval over traces,
        and what is left of it if traces change places at random.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "routing_shift", "layer", "divergence", "low", "high", "null", "p")
    attrs = frame.attrs
    below = scope(pd.DataFrame(), f"{attrs.get('traces', '?')} traces", "bars: 95% intervals")
    head = f"Shift of routing: {attrs.get('a', 'a')} against {attrs.get('b', 'b')}"
    canvas = Canvas(theme, head, below, [320], legend=True)
    panel, layers = canvas.panel(0), sorted(frame["layer"].unique())
    line_axes(canvas, panel, layers, "Jensen–Shannon divergence, nats (0 the same, 0.69 disjoint)")
    for place, (group, rows) in enumerate(groups(frame)):
        measured, low, high, null, p = (
            rows[c].to_numpy() for c in ("divergence", "low", "high", "null", "p")
        )
        template = "<b>%{text}</b><br>{0:.4f} nats ({1:.4f} to {2:.4f})<br>p = {3:.3f}"
        hover, ends = said(template, [measured, low, high, p]), {"low": low, "high": high}
        names = (
            (f"{group}: measured", f"{group}: by chance") if group else ("measured", "by chance")
        )
        draw_line(
            canvas,
            panel,
            rows["layer"],
            measured,
            (names[0], 2 * place),
            hover,
            legend=True,
            **ends,
        )
        hover = said("<b>%{text}</b><br>{0:.4f} nats by chance", [null])
        draw_line(canvas, panel, rows["layer"], null, (names[1], 2 * place + 1), hover, legend=True)
    return canvas.figure()


@refuse_unknown
def shift_along(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how far routing moves along a trace, from its beginning and from window to window.

    Args:
        frame: A table of `ringlens.analysis.shift_along`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of two maps of layer × window.

    Raises:
        ConfigError: It is no such table, or of one window.
    """
    check(frame, "shift_along", "layer", "start", "tokens", "from_first", "from_previous")
    layers, starts = sorted(frame["layer"].unique()), sorted(frame["start"].unique())
    if len(starts) < 2:
        raise ConfigError("the table has one window, which moves nowhere; take a smaller window.")
    window = int(min(np.diff(starts)))
    high = maps.row_height(2 * len(layers)) * len(layers)
    below = f"windows of {window} tokens · Jensen–Shannon divergence of their choices"
    canvas = Canvas(theme, "Routing along a trace", below, [high, high], bottom=maps.ROOM)
    panels = {"from_first": "from the first window", "from_previous": "from the window before"}
    most = float(np.nanmax(frame[list(panels)].to_numpy()))
    for row, (column, name) in enumerate(panels.items()):
        panel = canvas.panel(row)
        canvas.name(panel, name)
        values, tokens, start = (
            frame.assign(place=frame["start"])
            .pivot(index="layer", columns="start", values=c)
            .to_numpy(np.float64)
            for c in (column, "tokens", "place")
        )
        template = (
            "<b>layer %{y:d}, from position {2:d}</b><br>{0:.3f} nats " + name + "<br>{1:,} tokens"
        )
        maps.draw_map(canvas, panel, values, layers, said(template, [values, tokens, start]))
        canvas.data[-1] |= {"x0": starts[0] + window / 2, "dx": window}
        canvas.axes(
            panel,
            {"showgrid": False, "title": title("position in the trace, tokens" if row else "")},
            {
                "showgrid": False,
                "range": [layers[-1] + 0.5, layers[0] - 0.5],
                "tickprefix": "L",
                "tick0": layers[0],
                "dtick": ticks(len(layers), max(1, high / 18)),
            },
        )
    maps.colour_scale(canvas, maps.Scale(0, most, "divergence, nats", form=".2f"))
    return canvas.figure()
