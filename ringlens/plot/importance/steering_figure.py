"""What steering does at each strength, beside random directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.figure import typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HIGH = 170
"""Pixels of a panel."""

_FIRST = ("accuracy", "backtracks")
_LENGTHS = ("thought", "stopped")
_COLUMNS = (
    *("measure", "strength", "plain", "steered", "change", "low", "high", "random"),
    *("random_least", "random_most", "beyond", "beyond_low", "beyond_high"),
)


@refuse_unknown
def steering(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw what a direction does to accuracy and to roles, beside random directions.

    Args:
        frame: A table of `ringlens.analysis.importance.steering.steering`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of four panels at most: accuracy, going back, and the two roles that change most
        beyond random directions. Each has the change of the measure over the strength, with its 95%
        interval over problems, and that of the random directions: their mean, and the range of all.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "steering", *_COLUMNS)
    names = _drawn(frame)
    about = frame.attrs
    below = ""
    if "problems" in about:
        below = (
            f"{about['problems']} problems · layer {about['layer']} · bars: 95% interval over "
            f"problems, and the range of {about['randoms']} random directions"
        )
    rows = -(-len(names) // 2)
    canvas = Canvas(theme, "What steering does", safe(below, 120), [HIGH] * rows, 2, legend=True)
    for place, name in enumerate(names):
        panel = canvas.panel(place // 2, place % 2)
        own = frame[frame["measure"] == name].sort_values("strength")
        _draw(canvas, panel, own, legend=place == 0)
        plain = f"as it is {own['plain'].iloc[0]:.1%}"
        canvas.name(panel, f"change of {name}, {plain}")
        x = {"title": title("strength")} if place // 2 == rows - 1 else {}
        canvas.axes(panel, x, {"tickformat": "+.0%", "nticks": 5, "rangemode": "tozero"})
    return canvas.figure()


def _drawn(frame: pd.DataFrame) -> list[str]:
    """Accuracy and going back, and the two roles that change most beyond random directions."""
    roles = frame[~frame["measure"].isin((*_FIRST, *_LENGTHS))]
    most = roles["beyond"].abs().groupby(roles["measure"]).max().nlargest(2)
    return [*(name for name in _FIRST if name in set(frame["measure"])), *map(str, most.index)]


def _draw(canvas: Canvas, panel: Panel, own: pd.DataFrame, *, legend: bool) -> None:
    """The change of one measure over the strength."""
    canvas.line(panel, y=0)
    series = (
        ("the direction", "change", "low", "high"),
        ("random directions", "random", "random_least", "random_most"),
    )
    hover = said(
        "strength %{x}<br>%{y:+.1%}, the model as it is {0:.1%}<br>beyond random directions "
        "{1:+.1%} ({2:+.1%} to {3:+.1%})",
        [own[name].to_numpy() for name in ("plain", "beyond", "beyond_low", "beyond_high")],
    )
    for number, (name, change, low, high) in enumerate(series):
        look = canvas.mark(name, number)
        values = own[change].to_numpy(np.float64)
        canvas.add(
            panel,
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "legendgroup": name,
                "showlegend": legend,
                "x": typed(own["strength"].to_numpy(np.float64)),
                "y": typed(values),
                "line": {"color": look.colour, "width": 2, "dash": look.dash},
                "marker": {"symbol": look.symbol, "size": 8, "color": look.colour},
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": typed(own[high].to_numpy(np.float64) - values),
                    "arrayminus": typed(values - own[low].to_numpy(np.float64)),
                    "color": look.colour,
                    "thickness": 1.3,
                    "width": 3,
                },
                **hover,
            },
        )
