"""Maps of two axes, such as layer × expert, all on one scale of colours.

Shape letters: R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.plot.figure import Figure, typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.heatmap import ticks
from ringlens.plot.palette import Palette

ROOM = 34
"""Pixels of a scale of colours below the panels."""


@dataclass(frozen=True)
class Scale:
    """A scale of colours.

    Attributes:
        low: Value of the first colour.
        high: Value of the last one.
        name: What it measures, with its unit.
        signed: Whether it has two sides, with a middle.
        at: Values that are named below it; None leaves it to plotly.
        names: Their names.
        form: Form of d3 for values that plotly chooses.
    """

    low: float
    high: float
    name: str
    signed: bool = False
    at: Sequence[float] | None = None
    names: Sequence[str] | None = None
    form: str = ""


DOUBLINGS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def lift_scale(name: str) -> Scale:
    """The scale of a lift, which doublings and halvings divide; beyond four times it is cut."""
    return Scale(-2, 2, name, True, DOUBLINGS, ("≤ ¼", "½", "1", "2", "≥ 4"))


def log2_lift(lift: NDArray[Any]) -> NDArray[np.float64]:
    """Binary logarithm of a lift, cut to the scale; NaN stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.log2(np.asarray(lift, np.float64)), -2, 2)


def row_height(rows: int) -> float:
    """Pixels of a row of a map of so many rows."""
    return min(30.0, max(6.0, 420 / max(1, rows)))


def colour_scale(canvas: Canvas, scale: Scale) -> None:
    """Put the scale of all maps of a figure below its panels."""
    bar: Figure = {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "xpad": 0,
        "y": 0,
        "yanchor": "top",
        "ypad": 46,
        "len": 0.62,
        "thickness": 9,
        "outlinewidth": 0,
        "ticks": "",
        "tickfont": {"size": 11, "color": canvas.colours.text_2},
        "title": {"text": scale.name, "side": "bottom", "font": {"size": 11}},
    }
    if scale.at is not None:
        bar |= {"tickvals": list(scale.at), "ticktext": list(scale.names or ())}
    else:
        bar |= {"nticks": 7, "tickformat": scale.form}
    steps = _steps(scale, canvas.colours)
    canvas.layout["coloraxis"] = {
        "cmin": scale.low,
        "cmax": scale.high,
        "colorscale": [[i / (len(steps) - 1), step] for i, step in enumerate(steps)],
        "colorbar": bar,
    }


def _steps(scale: Scale, colours: Palette) -> tuple[str, ...]:
    return colours.diverging if scale.signed else colours.sequential


def draw_map(
    canvas: Canvas, panel: Panel, values_RC: NDArray[Any], rows: Sequence[int], hover: Figure
) -> None:
    """Draw a matrix; NaN stays blank."""
    gap = 1 if panel.high / max(1, len(rows)) >= 10 and values_RC.shape[1] <= 64 else 0
    canvas.add(
        panel,
        {
            "type": "heatmap",
            "z": typed(values_RC),
            "x0": 0,
            "dx": 1,
            "y": list(rows),
            "coloraxis": "coloraxis",
            "xgap": gap,
            "ygap": gap,
            "hoverongaps": False,
            **hover,
        },
    )


def layer_axes(
    canvas: Canvas, panel: Panel, layers: Sequence[int], columns: int, name: str
) -> None:
    """Axes of a map whose rows are layers, the first at the top."""
    canvas.axes(
        panel,
        {
            "showgrid": False,
            "range": [-0.5, columns - 0.5],
            "dtick": ticks(columns, 32),
            "tick0": 0,
            "title": title(name),
        },
        {
            "showgrid": False,
            "range": [layers[-1] + 0.5, layers[0] - 0.5],
            "tickprefix": "L",
            "tick0": layers[0],
            "dtick": ticks(layers[-1] - layers[0] + 1, max(1, panel.high / 18)),
        },
    )


def expert_axes(canvas: Canvas, panel: Panel, experts: int, x: str, y: str, labels: float) -> None:
    """Axes of a map of expert × expert; so many labels fit along x."""
    common = {"showgrid": False, "tick0": 0, "range": [-0.5, experts - 0.5]}
    canvas.axes(
        panel,
        {**common, "dtick": ticks(experts, labels), "title": title(x)},
        {
            **common,
            "range": [experts - 0.5, -0.5],
            "dtick": ticks(experts, panel.high / 18),
            "title": title(y),
        },
    )


def found(canvas: Canvas, panel: Panel, row: NDArray[Any], column: NDArray[Any], rows: int) -> None:
    """Mark cells of a map of so many rows with a dot; where there is room it has an edge."""
    high = panel.high / max(1, rows)
    edge = {"color": canvas.colours.surface, "width": 1 if high >= 10 else 0}
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "markers",
            "x": np.asarray(column).tolist(),
            "y": np.asarray(row).tolist(),
            "marker": {
                "size": min(6.0, max(3.5, 0.28 * high)),
                "color": canvas.colours.text,
                "line": edge,
            },
            "hoverinfo": "skip",
            "showlegend": False,
        },
    )


def blank(canvas: Canvas) -> None:
    """Make cells without a value grey, where white is a value."""
    canvas.layout["plot_bgcolor"] = "rgba(127,127,127,0.24)"
