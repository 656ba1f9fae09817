"""Lines over layers, one per group, with intervals where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.plot.figure import Figure, typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.heatmap import ticks
from ringlens.plot.theme import safe


def draw_line(
    canvas: Canvas,
    panel: Panel,
    layers: Sequence[int],
    values: NDArray[Any],
    series: tuple[str, int],
    hover: Figure,
    *,
    low: NDArray[Any] | None = None,
    high: NDArray[Any] | None = None,
    legend: bool = False,
    beside: float = 0.0,
) -> None:
    """Draw a series over layers.

    Args:
        canvas: The figure.
        panel: Where.
        layers: The layers.
        values: A number per layer; NaN and infinity break the line.
        series: Its name and number, which choose its look.
        hover: What is said of a point.
        low: Lower ends of intervals.
        high: Upper ends.
        legend: Whether it is named in the legend; once a figure is enough.
        beside: Part of a layer by which it stands beside its place, so that bars are told apart.
    """
    look = canvas.mark(*series)
    numbers = _finite(values)
    line: Figure = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": safe(series[0], 40),
        "legendgroup": str(series[1]),
        "showlegend": legend and bool(series[0]),
        "x": [int(layer) + beside for layer in layers],
        "text": [f"layer {layer}" for layer in layers],
        "y": typed(numbers),
        "line": {"color": look.colour, "width": 2, "dash": look.dash},
        "marker": {"symbol": look.symbol, "size": 7, "color": look.colour},
        **hover,
    }
    if low is not None and high is not None:
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": typed(_finite(high) - numbers),
            "arrayminus": typed(numbers - _finite(low)),
            "color": look.colour,
            "thickness": 1.3,
            "width": 3,
        }
    canvas.add(panel, line)


def beside(number: int, of: int) -> float:
    """Where one of several series with bars stands, in parts of a layer."""
    return 0.12 * (number - (of - 1) / 2)


def line_axes(
    canvas: Canvas, panel: Panel, layers: Sequence[int], y: str, form: str = "", **more: Any
) -> None:
    """Axes of lines over layers: the name of y stands above the panel."""
    canvas.name(panel, y)
    step = ticks(layers[-1] - layers[0] + 1, 16)
    canvas.axes(
        panel,
        {
            "showgrid": False,
            "dtick": step,
            "tick0": layers[0],
            "range": [layers[0] - 0.5, layers[-1] + 0.5],
            "title": title("layer"),
        },
        {"rangemode": "tozero", "nticks": 6, "tickformat": form, **more},
    )


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    numbers = np.asarray(values, np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
