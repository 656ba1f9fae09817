"""What each expert gives, as a map of layer × expert."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import known_only, refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MEASURES = {
    "share": ("share of tokens that chose it", ".0%"),
    "weight": ("sum of its routing weights", "~s"),
    "reap": ("REAP: mean of w·‖f‖ over its tokens", "~g"),
    "ean": ("EAN: Σ‖f‖", "~s"),
    "easy_ep": ("EASY-EP: Σ w·‖f‖·(1 − cos)", "~s"),
    "peak": ("max |f|", "~g"),
}
"""What may be drawn, with its meaning and the form of d3 of its values."""


@refuse_unknown
def expert_importance(
    frame: pd.DataFrame, *, measure: str = "reap", theme: str | None = None
) -> Figure:
    """Draw what every expert gives, by one measure.

    Args:
        frame: A table of `ringlens.analysis.expert_importance`.
        measure: One of `MEASURES`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the measure, and dots on super experts.

    Raises:
        ConfigError: It is no such table, there is no such measure, or it was not recorded.
    """
    check(frame, "expert_importance", "layer", "expert", "n", "super_expert", *MEASURES)
    known_only([measure], MEASURES, "measure")
    if not np.isfinite(frame[measure]).any():
        raise ConfigError(
            f"{measure} was not recorded; record expert_outputs, or draw measure='share'."
        )
    name, form = MEASURES[measure]
    layers, experts = sorted(frame["layer"].unique()), int(frame["expert"].max()) + 1
    high = maps.row_height(len(layers)) * len(layers)
    where = frame.attrs.get("where", "true")
    told = [] if where == "true" else [f"where {where}"]
    below = " · ".join([name, "dots: super experts", *told])
    canvas = Canvas(theme, "What each expert gives", below, [high], bottom=maps.ROOM)
    panel = canvas.panel(0)
    recorded = [c for c in ("share", *MEASURES) if np.isfinite(frame[c]).any()]
    shown = list(dict.fromkeys(["n", *recorded]))
    template = "<b>L%{y:d} · E%{x}</b><br>chosen {0:,} times" + "".join(
        f"<br>{c} {{{place}:{'.2%' if c == 'share' else '.4g'}}}"
        for place, c in enumerate(shown)
        if place
    )
    values = [grid(frame, "layer", "expert", c, layers, experts) for c in shown]
    maps.layer_axes(canvas, panel, layers, experts, "expert")
    drawing = grid(frame, "layer", "expert", measure, layers, experts)
    maps.draw_map(canvas, panel, drawing, layers, said(template, values))
    marked = frame[frame["super_expert"].isin([True])]
    rows, columns = marked["layer"].to_numpy(), marked["expert"].to_numpy()
    maps.found(canvas, panel, rows, columns, len(layers))
    top = float(np.nanmax(drawing)) or 1.0
    maps.colour_scale(canvas, maps.Scale(0, top, name, form=form))
    return canvas.figure()
