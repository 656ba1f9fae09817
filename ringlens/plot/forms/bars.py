"""Ranked bars with a label each, and points with intervals; the first is at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.display import quoted
from ringlens.plot.figure import Figure, typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.theme import safe

ROW = 21
"""Pixels of a bar."""


def word(text: str, most: int = 20) -> str:
    """A token's text as plotly shows it: in quotes, on one line, no markup."""
    return safe(quoted(text, most))


def largest(frame: pd.DataFrame, column: str, most: int) -> pd.DataFrame:
    """The rows with the largest values of a column, each with its ``place`` from 0."""
    best = frame.sort_values(column, ascending=False, kind="stable").head(most)
    best = best.reset_index(drop=True).assign(place=range(len(best)))
    best.attrs = frame.attrs
    return best


def draw_bars(
    canvas: Canvas,
    panel: Panel,
    values: NDArray[Any],
    series: tuple[str, int],
    hover: Figure,
    *,
    places: Sequence[int] | None = None,
    legend: bool = False,
) -> None:
    """Draw bars at places from 0, or in their order."""
    look = canvas.mark(*series)
    canvas.add(
        panel,
        {
            "type": "bar",
            "orientation": "h",
            "name": safe(series[0], 40),
            "legendgroup": str(series[1]),
            "showlegend": legend and bool(series[0]),
            "x": typed(np.asarray(values, np.float64)),
            "y": list(range(len(values))) if places is None else list(map(int, places)),
            "marker": {"color": look.colour, "line": {"width": 0}},
            "width": 0.72,
            **hover,
        },
    )


def draw_points(
    canvas: Canvas,
    panel: Panel,
    values: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
    filled: NDArray[np.bool_],
    hover: Figure,
) -> None:
    """Draw points with intervals; those that are not filled are hollow."""
    numbers = np.asarray(values, np.float64)
    colour = canvas.colours.accent
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "markers",
            "x": typed(numbers),
            "y": list(range(len(numbers))),
            "marker": {
                "size": 9,
                "color": [colour if full else canvas.colours.surface for full in filled],
                "line": {"color": colour, "width": 2},
            },
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": typed(np.asarray(high) - numbers),
                "arrayminus": typed(numbers - np.asarray(low)),
                "color": colour,
                "thickness": 1.5,
                "width": 4,
            },
            "showlegend": False,
            **hover,
        },
    )


def ranked_axes(
    canvas: Canvas, panel: Panel, labels: Sequence[str], x: str, form: str, **more: Any
) -> None:
    """Axes of rows with labels, which are markup already."""
    canvas.axes(
        panel,
        {"title": title(x), "tickformat": form, "nticks": 6, **more},
        {
            "showgrid": False,
            "range": [len(labels) - 0.5, -0.5],
            "tickvals": list(range(len(labels))),
            "ticktext": list(labels),
            "automargin": True,
        },
    )
