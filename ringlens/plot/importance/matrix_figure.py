"""What hiding each step of a thought does to the later ones.

Shape letters: R steps that are changed, H steps that are hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.forms.canvas import Canvas, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.maps import ROOM, Scale, colour_scale, draw_map, row_height
from ringlens.plot.forms.table import check
from ringlens.plot.heatmap import ticks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HOVER = "step {0:.0f} without step {1:.0f}<br>effect {2:+.2f}<br>ln KL {3:.2f}"


@refuse_unknown
def suppression_matrix(
    frame: pd.DataFrame, trace: int | None = None, *, theme: str | None = None
) -> Figure:
    """Draw how far each step changes if an earlier one is hidden.

    Args:
        frame: A table of `ringlens.analysis.importance.suppression.suppression_matrix`.
        trace: The trace; None for the first.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A map: a row for each step that is changed, a column for each that is hidden.

    Raises:
        ConfigError: It is no such table, or has no such trace.
    """
    check(frame, "suppression_matrix", "trace_id", "step", "changed_step", "effect", "log_kl")
    chosen = frame["trace_id"].iloc[0] if trace is None else trace
    own = frame[frame["trace_id"] == chosen]
    if own.empty:
        raise ConfigError(f"trace {trace!r:.40} is not in the table.")
    rows, columns = sorted(own["step"].unique()), sorted(own["changed_step"].unique())
    at = np.searchsorted(rows, own["step"]), np.searchsorted(columns, own["changed_step"])
    effect_RH, log_RH = np.full((2, len(rows), len(columns)), np.nan)
    effect_RH[at], log_RH[at] = own["effect"], own["log_kl"]
    high = row_height(len(rows)) * len(rows)
    below = f"trace {chosen} · above 0: more than hiding other steps does to the same step"
    canvas = Canvas(
        theme, "What hiding a step does to later ones", below, [max(120.0, high)], bottom=ROOM
    )
    panel = canvas.panel(0)
    row_RH, column_RH = np.meshgrid(rows, columns, indexing="ij")
    hover = said(HOVER, [row_RH, column_RH, effect_RH, log_RH])
    draw_map(canvas, panel, effect_RH, list(range(len(rows))), hover)
    edge = float(np.nanmax(np.abs(effect_RH))) or 1.0
    colour_scale(canvas, Scale(-edge, edge, "ln KL less the mean of the row", True, form="+.1f"))
    x = {"range": [-0.5, len(columns) - 0.5], "title": title("hidden step"), **_named(columns)}
    y = {"range": [len(rows) - 0.5, -0.5], "title": title("changed step"), **_named(rows)}
    canvas.axes(panel, {"showgrid": False, **x}, {"showgrid": False, **y})
    return canvas.figure()


def _named(steps: Sequence[int]) -> dict[str, list[int]]:
    """Places that are named, and the steps that stand there."""
    places = list(range(0, len(steps), ticks(len(steps), 24)))
    return {"tickvals": places, "ticktext": [int(steps[each]) for each in places]}
