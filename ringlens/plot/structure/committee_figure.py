"""Committees of experts, ranked by their share of the routing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import spans
from ringlens.plot.forms.bars import ROW, draw_bars, largest, ranked_axes
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, groups, scope
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST = 20
"""Committees that are drawn."""

_VALUES = ("share", "size", "n", "expected", "lift", "held_out", "stability")


@refuse_unknown
def committees(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the committees with the largest shares of the choices.

    Args:
        frame: A table of `ringlens.analysis.committees`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of ranked bars, at most `MOST`.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "committees", "layer", "members", *_VALUES)
    best = largest(frame, "share", MOST)
    parts = groups(best)
    several = len(parts) > 1
    below = scope(frame, f"the {len(best)} largest of {len(frame):,}")
    high = float(ROW * len(best))
    canvas = Canvas(theme, "Committees of experts", below, [high], legend=several, left=190)
    panel = canvas.panel(0)
    template = (
        "{0:.1%} of choices, {1:d} experts<br>together {2:,} times, {3:,.0f} by chance: lift "
        "{4:.2f}<br>lift held out {5:.2f}, stability {6:.2f}"
    )
    for number, (name, rows) in enumerate(parts):
        values = [rows[c].to_numpy(float) for c in _VALUES]
        places = rows["place"].to_list()
        hover = said(template, values)
        draw_bars(
            canvas, panel, values[0], (name, number), hover, places=places, legend=several
        )  # fmt: skip
    labels = [f"L{row.layer}: {safe(spans(sorted(row.members)), 24)}" for row in best.itertuples()]
    ranked_axes(canvas, panel, labels, "share of choices", ".0%", rangemode="tozero")
    return canvas.figure()
