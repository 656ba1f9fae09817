"""How measures of importance agree, as they are and beyond what their controls explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.config import refuse_unknown
from ringlens.plot.forms.bars import draw_points, ranked_axes
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROW = 26
"""Pixels of a pair."""


@refuse_unknown
def importance_agreement(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the rank correlations of measures, and what is left of them beyond the controls.

    Args:
        frame: A table of `ringlens.analysis.importance.agreement.importance_agreement`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a row for each pair; a filled mark is an interval that leaves out 0.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "importance_agreement", "first", "second", "rank", "low", "high", "partial")
    controls = frame.attrs.get("controls", ())
    rows = frame[frame["rank"].notna()]
    check(rows, "importance_agreement")
    high = float(ROW * len(rows))
    beyond = f"beyond {', '.join(controls)}" if controls else "partial"
    below = "rank correlations over steps, with 95% intervals over problems"
    canvas = Canvas(theme, "Do measures of importance agree?", below, [high], 2, left=180)
    labels = [
        safe(f"{first} · {second}".replace("_", " "), 60)
        for first, second in zip(rows["first"], rows["second"], strict=True)
    ]
    for column, (name, ends, shown) in enumerate(
        (
            ("rank", ("low", "high"), "as they are"),
            ("partial", ("partial_low", "partial_high"), beyond),
        )
    ):
        panel = canvas.panel(0, column)
        values, low, top = (rows[each].to_numpy(np.float64) for each in (name, *ends))
        hover = said("{0:+.2f} ({1:+.2f} to {2:+.2f})", [values, low, top])
        draw_points(canvas, panel, values, low, top, _leaves_out_zero(low, top), hover)
        canvas.name(panel, shown)
        canvas.line(panel, x=0)
        ranked_axes(
            canvas, panel, labels if column == 0 else [""] * len(labels), "correlation", "+.1f",
            range=[-1.05, 1.05],
        )  # fmt: skip
    return canvas.figure()


def _leaves_out_zero(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which intervals do not hold 0; none where there is no interval."""
    found: NDArray[np.bool_] = (low > 0) | (high < 0)
    return found
