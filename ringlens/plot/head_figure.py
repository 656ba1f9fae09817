"""What the attention heads of a trace do, as a figure: a map of layer × head a statistic.

Shape letters: L layers, T tokens, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ringlens.config import known_only, refuse_unknown
from ringlens.display import plural
from ringlens.errors import NotInStoreError
from ringlens.plot.figure import typed
from ringlens.plot.palette import Palette
from ringlens.plot.theme import colours_of, drawn, frame, titled
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.recorded_tables import HEADS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

    from ringlens.store import Trace

_GAP_X = 0.13
"""Part of the width between two maps."""

_GAP_Y = 44
_TOP, _BOTTOM = 92, 44
"""Pixels between, above and below the maps."""


@refuse_unknown
def heads(
    trace: Trace, *, phase: str = "all", where: str | None = None, theme: str | None = None
) -> PlotlyFigure:
    """Draw what each head does, on average over the tokens of a trace.

    Args:
        trace: The trace.
        phase: "all" (the title says that phases are pooled), "prompt", "think" or "answer".
        where: Which tokens of the trace: a predicate over ``token_context``; None for all.
        theme: "light" or "dark"; None follows plotly's default template.

    Raises:
        ConfigError: There is no such phase or theme, or ``where`` is no predicate.
        NotInStoreError: Heads were not recorded, or only by blocks of 64 positions and a phase or
            predicate was given; or no token is left.
    """
    known_only([phase], ("all", *PHASES), "phase")
    theme, colours = colours_of(theme)
    layers, maps, tokens = _means(trace, phase, where)
    inner = 2 * max(120, min(340, 16 * len(layers))) + _GAP_Y
    title = _title(trace, phase, where, tokens, colours)
    data, layout, names = [], frame(colours, title, inner + _TOP + _BOTTOM), []
    for index, column in enumerate(HEADS.values):
        panel = _panel(index, inner)
        data.append(_map(maps[column.name], layers, column.unit, panel, colours))
        layout |= _axes(panel, layers, maps[column.name].shape[1], colours)
        names.append(_name(f"{column.label.lower()}, {column.unit}", panel, colours))
    layout["margin"] = {"l": 44, "r": 56, "t": _TOP, "b": _BOTTOM}
    return drawn({"data": data, "layout": {**layout, "annotations": names}})


def _means(
    trace: Trace, phase: str, where: str | None
) -> tuple[list[int], dict[str, NDArray], int]:
    """Layers, the mean of each statistic [L, H], and of how many tokens it is."""
    names = [column.name for column in HEADS.values]
    if phase == "all" and where is None:
        layers = trace.layers("head_blocks") or trace.layers("heads")
        if not layers:
            trace.heads(0)  # says what was recorded
        blocks = [trace.head_blocks(layer) for layer in layers]
        means = {
            name: np.stack([np.average(b[f"{name}_mean"], axis=0, weights=b["n"]) for b in blocks])
            for name in names
        }
        return layers, means, len(trace)
    kept_T = trace.where(where)
    if phase != "all":
        kept_T &= np.array(trace.tokens()["phase"]) == phase
    if not kept_T.any():
        raise NotInStoreError(f"no token of trace {trace.trace_id} is left: phase {phase}, {where}")
    layers = trace.layers("heads")
    if not layers:
        trace.heads(0)
    found = [trace.heads(layer) for layer in layers]
    means = {name: np.stack([f[name][kept_T].mean(axis=0) for f in found]) for name in names}
    return layers, means, int(kept_T.sum())


@dataclass(frozen=True)
class Panel:
    """One of four maps, two by two.

    Attributes:
        axes: What plotly's names of its axes end with.
        x: Fractions of the width that it takes.
        y: Fractions of the height.
        lowest: Whether it stands in the lower row.
    """

    axes: str
    x: tuple[float, float]
    y: tuple[float, float]
    lowest: bool


def _panel(index: int, inner: int) -> Panel:
    """A panel's place in a figure whose maps and gaps are ``inner`` pixels high."""
    column, row = index % 2, index // 2
    gap = _GAP_Y / inner
    wide, high = (1 - _GAP_X) / 2, (1 - gap) / 2
    left, bottom = column * (wide + _GAP_X), (1 - row) * (high + gap)
    name = "" if index == 0 else str(index + 1)
    return Panel(name, (left, left + wide), (bottom, bottom + high), row == 1)


def _map(
    values_LH: NDArray, layers: list[int], unit: str, panel: Panel, colours: Palette
) -> dict[str, Any]:
    low, high = float(np.nanmin(values_LH)), float(np.nanmax(values_LH))
    steps = colours.sequential
    return {
        "type": "heatmap",
        "z": typed(values_LH),
        "x0": 0,
        "dx": 1,
        "y": layers,
        # From 0, heads of much the same value would look alike.
        "zmin": 0.9 * low if low > high / 4 else 0.0,
        "zmax": high or 1.0,
        "xaxis": f"x{panel.axes}",
        "yaxis": f"y{panel.axes}",
        "colorscale": [[i / (len(steps) - 1), step] for i, step in enumerate(steps)],
        "hovertemplate": f"<b>L%{{y}} · H%{{x}}</b>  %{{z:.3f}} {unit}<extra></extra>",
        "colorbar": {
            "x": panel.x[1] + 0.012,
            "xpad": 0,
            "y": sum(panel.y) / 2,
            "len": panel.y[1] - panel.y[0],
            "ypad": 0,
            "thickness": 7,
            "outlinewidth": 0,
            "nticks": 4,
            "tickfont": {"size": 10, "color": colours.text_3},
        },
    }


def _axes(panel: Panel, layers: list[int], heads: int, colours: Palette) -> dict[str, Any]:
    quiet = {
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"size": 10, "color": colours.text_3},
    }
    step = max(1, round(len(layers) / 10))
    return {
        f"xaxis{panel.axes}": {
            **quiet,
            "domain": panel.x,
            "anchor": f"y{panel.axes}",
            "range": [-0.5, heads - 0.5],
            "dtick": 1 if heads <= 16 else 8,
            "title": {"text": "head" if panel.lowest else "", "standoff": 4, "font": {"size": 11}},
        },
        f"yaxis{panel.axes}": {
            **quiet,
            "domain": panel.y,
            "anchor": f"x{panel.axes}",
            "range": [layers[-1] + 0.5, layers[0] - 0.5],
            "tickvals": layers[::step],
            "ticktext": [f"L{layer}" for layer in layers[::step]],
        },
    }


def _name(text: str, panel: Panel, colours: Palette) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "x": panel.x[0],
        "xanchor": "left",
        "yref": "paper",
        "y": panel.y[1],
        "yanchor": "bottom",
        "yshift": 3,
        "showarrow": False,
        "font": {"size": 11, "color": colours.text},
    }


def _title(trace: Trace, phase: str, where: str | None, tokens: int, colours: Palette) -> str:
    phases = "prompt, think and answer pooled" if phase == "all" else phase
    chosen = "" if where is None else f" · where {where}"
    below = f"mean over {plural(tokens, 'token')} · {phases}{chosen} · {trace.run['model']}"
    return titled(f"Attention heads of trace {trace.trace_id}", below, colours)
