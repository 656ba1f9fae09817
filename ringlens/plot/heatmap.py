"""Draws the layer × expert heatmap: counts in, figure out.

Shape letters: S sparse layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import numpy as np

from ringlens.analysis.load.usage import Array, Usage, gini, max_violation
from ringlens.plot.figure import Figure, signed, typed
from ringlens.plot.palette import FONT, Palette, palette

# Heights and widths in pixels; plotly wants fractions, `_Frame` translates.
_LOAD = 104  # bars of one layer's load, above the heatmap
_GAP = 30
_TOP, _BOTTOM, _LEFT, _RIGHT = 24, 34, 44, 12
_LIFT = 2.0  # most lift that the scale tells apart: four times or a quarter of uniform
_LABELLED = 24  # layers whose balance still fits beside its bar as text
_AREA, _LEAST, _MOST = 460, 9, 62  # height of the heatmap, and of a row of it


@dataclass(frozen=True)
class Reading:
    """How a metric is written: name of its unit, d3 format of a value and of a difference."""

    title: str
    value: str
    difference: str


READINGS = {
    "share": Reading("tokens that chose it", ".2%", "+.2%"),
    "weight": Reading("weight share: of all routing weight of a layer", ".2%", "+.2%"),
    "lift": Reading("log₂ lift over k/E", "+.2f", "+.2f"),
    "flips": Reading("choices made by bias", ".1%", "+.1%"),
}


_FITS = 64  # experts whose cells are wide enough to be seen and hit; of more, one zooms


def zooms(experts: int) -> bool:
    """Whether a map of so many experts is one to zoom and pan in."""
    return experts > _FITS


def figure(
    usage: Usage, metric: str, phase: str, layer: int, expert: int | None, theme: str
) -> Figure:
    """Draw the heatmap, with the load of one layer above and balance by layer beside it.

    Args:
        usage: Counts of the scope.
        metric: Key of :data:`ringlens.analysis.load.usage.METRICS`.
        phase: 'all', a phase, or 'difference' (think minus answer).
        layer: Layer whose load is drawn above.
        expert: Expert to mark in that layer, or None.
        theme: 'dark' or 'light'.
    """
    colours = palette(theme)
    frame = _Frame(len(rows(usage.layers)))
    values_SE = usage.metric_SE(metric, phase)
    return {
        "data": [
            _heatmap(usage, values_SE, metric, phase, colours, frame),
            _load_bars(usage, phase, layer, expert, colours),
            *_balance(usage, phase, colours),
        ],
        "layout": {
            **_layout(usage, colours, frame),
            **_axes(usage, phase, colours, frame),
            "shapes": _shapes(usage, layer, expert, colours),
            "annotations": _labels(usage, layer, phase, colours, frame),
        },
    }


def height(layers: int) -> int:
    """Return the height of a figure of so many layers, in pixels."""
    return _Frame(layers).height


def rows(layers: Sequence[int]) -> range:
    """Return the rows of the heatmap: a layer each, those between that were not recorded too."""
    return range(layers[0], layers[-1] + 1)


class _Frame:
    """Pixel geometry of the figure as plotly's fractions."""

    def __init__(self, rows: int) -> None:
        self.row = min(_MOST, max(_LEAST, _AREA / max(1, rows)))
        self.map = self.row * max(1, rows)
        self.inner = self.map + _GAP + _LOAD
        self.height = round(self.inner + _TOP + _BOTTOM)

    @property
    def map_domain(self) -> list[float]:
        return [0.0, self.map / self.inner]

    @property
    def load_domain(self) -> list[float]:
        return [(self.map + _GAP) / self.inner, 1.0]


def _heatmap(
    usage: Usage, values_SE: Array, metric: str, phase: str, colours: Palette, frame: _Frame
) -> Figure:
    low, high = bounds(values_SE, metric, phase)
    form = _form(metric, phase)
    gap = 1 if frame.row >= 14 and usage.experts <= 64 else 0
    every = rows(usage.layers)
    shown = np.full((len(every), usage.experts), np.nan)  # a row without a record stays blank
    shown[np.array(usage.layers) - every.start] = values_SE
    return {
        "type": "heatmap",
        "z": typed(np.where(np.isfinite(shown), shown, np.nan)),
        "x0": 0,
        "dx": 1,
        "y": list(every),
        "zmin": low,
        "zmax": high,
        "colorscale": _even(_colours(metric, phase, colours)),
        "xgap": gap,
        "ygap": gap,
        "hoverongaps": False,
        "hovertemplate": f"<b>L%{{y:d}} · E%{{x}}</b>  %{{z:{form}}}<extra></extra>",
        "showscale": False,
    }


def scale(usage: Usage, metric: str, phase: str, theme: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the two ends of the colour scale as text, and its colours from low to high."""
    low, high = bounds(usage.metric_SE(metric, phase), metric, phase)
    form = python_format(metric, phase)
    ends = signed(low, form), signed(high, form)
    if metric == "lift" and high == _LIFT:
        ends = f"≤ {ends[0]}", f"≥ {ends[1]}"
    return *ends, _colours(metric, phase, palette(theme))


def python_format(metric: str, phase: str) -> str:
    """Return the format of a metric's value (d3's and Python's agree on these)."""
    return _form(metric, phase).replace(".2%", ".1%")


def _form(metric: str, phase: str) -> str:
    reading = READINGS[metric]
    return reading.difference if phase == "difference" else reading.value


def bounds(values_SE: Array, metric: str, phase: str) -> tuple[float, float]:
    """Choose the ends of the colour scale: symmetric if signed, else from 0 or near the least.

    A balanced router gives every expert about the same share; from 0 they would all look alike.
    """
    top = _most(np.abs(values_SE))
    if metric == "lift":
        top = min(top, _LIFT)  # one rare expert would otherwise pale all others
    if phase == "difference" or metric == "lift":
        return -top, top
    least = float(np.nanmin(values_SE, initial=top))
    return (0.9 * least if least > top / 4 else 0.0), top


def scale_name(metric: str, phase: str) -> str:
    """Return which colours of a palette a metric is drawn in."""
    if phase == "difference" or metric == "lift":
        return "diverging"
    return "warm" if metric == "flips" else "sequential"


def _colours(metric: str, phase: str, colours: Palette) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(colours, scale_name(metric, phase))
    return found


def _load_bars(
    usage: Usage, phase: str, layer: int, expert: int | None, colours: Palette
) -> Figure:
    load_E = usage.count_SE(phase)[usage.layers.index(layer)]
    total = load_E.sum() / usage.experts_per_token
    fills = [colours.bar] * usage.experts
    if expert is not None:
        fills[expert] = colours.accent
    return {
        "type": "bar",
        "x0": 0,
        "dx": 1,
        "y": typed(load_E / total if total else load_E),
        "yaxis": "y2",
        "marker": {"color": fills, "line": {"width": 0}},
        "hovertemplate": f"<b>L{layer} · E%{{x}}</b>  %{{y:.2%}} of tokens<extra></extra>",
    }


def _balance(usage: Usage, phase: str, colours: Palette) -> list[Figure]:
    """Draw MaxVio and Gini of each layer, on the heatmap's rows."""
    n_SE = usage.count_SE(phase)
    bars = []
    for axis, name, values_S in (
        ("x2", "MaxVio", max_violation(n_SE)),
        ("x3", "Gini", gini(n_SE)),
    ):
        bars.append(
            {
                "type": "bar",
                "x": typed(values_S),
                "y": list(usage.layers),
                "orientation": "h",
                "xaxis": axis,
                "width": 0.16 if len(usage.layers) <= _LABELLED else 0.6,
                "marker": {"color": colours.bar, "line": {"width": 0}},
                "hovertemplate": f"<b>L%{{y:d}}</b>  {name} %{{x:.3f}}<extra></extra>",
                "texttemplate": "%{x:.2f}" if len(usage.layers) <= _LABELLED else None,
                "textposition": "outside",
                "constraintext": "none",
                "textangle": 0,
                "textfont": {"size": 11, "color": colours.text_2},
                "cliponaxis": False,
            }
        )
    return bars


def _layout(usage: Usage, colours: Palette, frame: _Frame) -> dict[str, Any]:
    return {
        "height": frame.height,
        "margin": {"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM, "pad": 0},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": colours.text_2},
        "showlegend": False,
        "bargap": 0.28 if usage.experts <= 64 else 0.1,
        "dragmode": "pan" if zooms(usage.experts) else False,
        "hoverlabel": {
            "bgcolor": colours.raised,
            "bordercolor": colours.line,
            "font": {"family": FONT, "size": 12, "color": colours.text},
        },
        "uirevision": "usage",
    }


def _axes(usage: Usage, phase: str, colours: Palette, frame: _Frame) -> dict[str, Any]:
    fixed = not zooms(usage.experts)
    still: dict[str, Any] = {
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "fixedrange": fixed,
    }
    layers = usage.layers
    balance = {**still, "showticklabels": False, "fixedrange": True, "rangemode": "tozero"}
    room = 2.6 if len(layers) <= _LABELLED else 1.05  # for the text beside the bars
    n_SE = usage.count_SE(phase)
    violation, spread = max_violation(n_SE), gini(n_SE)
    return {
        "xaxis": {
            **still,
            "domain": [0, 0.84],
            "range": [-0.5, usage.experts - 0.5],
            "minallowed": -0.5,
            "maxallowed": usage.experts - 0.5,
            "dtick": 2 if fixed else ticks(usage.experts, 16),
            "tick0": 0,
            "tickfont": {"size": 10, "color": colours.text_3},
        },
        "yaxis": {
            **still,
            "domain": frame.map_domain,
            "range": [layers[-1] + 0.5, layers[0] - 0.5],
            "minallowed": layers[0] - 0.5,
            "maxallowed": layers[-1] + 0.5,
            "tick0": layers[0],
            "dtick": ticks(layers[-1] - layers[0] + 1, frame.map / 16),
            "tickprefix": "L",
            "tickfont": {"size": 11, "color": colours.text_2},
        },
        "yaxis2": {
            **still,
            "domain": frame.load_domain,
            "anchor": "x",
            "rangemode": "tozero",
            "tickformat": ".0%",
            "nticks": 3,
            "tickfont": {"size": 10, "color": colours.text_3},
            "fixedrange": True,
        },
        "xaxis2": {**balance, "domain": [0.856, 0.92], "range": [0, room * _most(violation)]},
        "xaxis3": {**balance, "domain": [0.936, 1.0], "range": [0, room * max(0.2, _most(spread))]},
    }


def ticks(span: float, most: float) -> int:
    """Return the distance of labels, a power of two, so that at most so many stand on an axis."""
    return 2 ** max(0, ceil(log2(span / most)))


def _shapes(usage: Usage, layer: int, expert: int | None, colours: Palette) -> list[dict[str, Any]]:
    """Draw group boundaries, the uniform load, and the marked cell."""
    size = usage.experts // usage.groups
    line = {"color": colours.surface, "width": 5 if usage.experts <= 64 else 2}
    shapes: list[dict[str, Any]] = [
        {
            "type": "line",
            "x0": g * size - 0.5,
            "x1": g * size - 0.5,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": line,
        }
        for g in range(1, usage.groups)
    ]
    uniform = usage.experts_per_token / usage.experts
    shapes.append(
        {
            "type": "line",
            "x0": -0.5,
            "x1": usage.experts - 0.5,
            "y0": uniform,
            "y1": uniform,
            "yref": "y2",
            "line": {"color": colours.text_3, "width": 1, "dash": "dot"},
        }
    )
    cell = {"type": "rect", "y0": layer - 0.5, "y1": layer + 0.5, "fillcolor": "rgba(0,0,0,0)"}
    if expert is not None:
        mark = {"color": colours.accent, "width": 2}
        shapes.append({**cell, "x0": expert - 0.5, "x1": expert + 0.5, "line": mark})
    return shapes


def _labels(
    usage: Usage, layer: int, phase: str, colours: Palette, frame: _Frame
) -> list[dict[str, Any]]:
    """Name the groups, the load bars and the balance columns."""
    size = usage.experts // usage.groups
    base = {"showarrow": False, "font": {"size": 10.5, "color": colours.text_3}}
    on_map = {**base, "yref": "paper", "y": frame.map_domain[1], "yanchor": "bottom", "yshift": 5}
    names = [
        {
            **on_map,
            "x": (g + 0.5) * size - 0.5,
            "text": f"group {g}" if usage.groups < 16 else f"{g}",
        }
        for g in range(usage.groups)
        if usage.groups > 1
    ]
    columns = [
        {**on_map, "xref": "paper", "x": x, "xanchor": "left", "text": text}
        for x, text in ((0.856, "MaxVio"), (0.936, "Gini"))
    ]
    over = " in think and answer" if phase == "difference" else ""
    load = {
        **base,
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "yref": "paper",
        "y": 1,
        "yanchor": "bottom",
        "yshift": 4,
        "text": f"Load of layer {layer}{over}  ·  dotted: uniform",
    }
    return [*names, *columns, load]


def _most(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _even(colours: tuple[str, ...]) -> list[list[Any]]:
    """Make a colour scale with even steps."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]
