"""How much of a choice its surroundings explain, over layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.lines import draw_line, line_axes
from ringlens.plot.forms.table import check, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAMES = {"previous_layer": "layer before"}


@refuse_unknown
def predictability(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw what each predictor gets right beyond the most frequent experts, over layers.

    Args:
        frame: A table of `ringlens.analysis.predictability`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line for each thing known; bars are 95% intervals over traces.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "predictability", "layer", "known", "overlap", "unseen", "gain", "low", "high")
    known = [name for name in frame["known"].unique() if name != "nothing"]
    head = "What predicts an expert, in traces held out"
    below = scope(frame, "bars: 95% intervals over traces")
    canvas = Canvas(theme, head, below, [330], legend=True)
    panel, layers = canvas.panel(0), sorted(frame["layer"].unique())
    name = "share of a token's experts named right, beyond the most frequent ones"
    line_axes(canvas, panel, layers, name, ".0%")
    canvas.line(panel, y=0)
    template = (
        "<b>%{text}</b><br>gain {0:.1%} (95% interval {1:.1%} to {2:.1%})<br>"
        "{3:.1%} named right in all<br>{4:.1%} of tokens of a kind not seen before"
    )
    for number, what in enumerate(known):
        rows = frame[frame["known"] == what].sort_values("layer")
        columns = [rows[c].to_numpy() for c in ("gain", "low", "high", "overlap", "unseen")]
        series, ends = (NAMES.get(what, what), number), {"low": columns[1], "high": columns[2]}
        hover = said(template, columns)
        draw_line(canvas, panel, rows["layer"], columns[0], series, hover, legend=True, **ends)
    return canvas.figure()
