"""What the attention heads of a trace do, as a figure: a map of layer × head a statistic.

Shape letters: L layers, T tokens, H heads.
"""

from __future__ import annotations

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

_GAP_X, _GAP_Y = 0.13, 0.17


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
    height = 136 + 2 * max(120, min(340, 16 * len(layers)))
    data, layout = [], frame(colours, _title(trace, phase, where, tokens, colours), height)
    names = []
    for panel, column in enumerate(HEADS.values):
        data.append(_map(maps[column.name], layers, column.unit, panel, colours))
        layout |= _axes(panel, layers, maps[column.name].shape[1], colours)
        names.append(_name(f"{column.label.lower()}, {column.unit}", panel, colours))
    layout["margin"] = {"l": 44, "r": 56, "t": 92, "b": 44}
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


def _place(panel: int) -> tuple[list[float], list[float]]:
    """Fractions of the figure that a panel takes, two by two."""
    column, row = panel % 2, panel // 2
    wide, high = (1 - _GAP_X) / 2, (1 - _GAP_Y) / 2
    left, bottom = column * (wide + _GAP_X), (1 - row) * (high + _GAP_Y)
    return [left, left + wide], [bottom, bottom + high]


def _map(
    values_LH: NDArray, layers: list[int], unit: str, panel: int, colours: Palette
) -> dict[str, Any]:
    x, y = _place(panel)
    number = "" if panel == 0 else str(panel + 1)
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
        "xaxis": f"x{number}",
        "yaxis": f"y{number}",
        "colorscale": [[i / (len(steps) - 1), step] for i, step in enumerate(steps)],
        "hovertemplate": f"<b>L%{{y}} · H%{{x}}</b>  %{{z:.3f}} {unit}<extra></extra>",
        "colorbar": {
            "x": x[1] + 0.012,
            "xpad": 0,
            "y": sum(y) / 2,
            "len": y[1] - y[0],
            "ypad": 0,
            "thickness": 7,
            "outlinewidth": 0,
            "nticks": 4,
            "tickfont": {"size": 10, "color": colours.text_3},
        },
    }


def _axes(panel: int, layers: list[int], heads: int, colours: Palette) -> dict[str, Any]:
    x, y = _place(panel)
    number = "" if panel == 0 else str(panel + 1)
    quiet = {
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"size": 10, "color": colours.text_3},
    }
    step = max(1, round(len(layers) / 10))
    return {
        f"xaxis{number}": {
            **quiet,
            "domain": x,
            "anchor": f"y{number}",
            "range": [-0.5, heads - 0.5],
            "dtick": 1 if heads <= 16 else 8,
            "title": {"text": "head" if panel > 1 else "", "standoff": 4, "font": {"size": 11}},
        },
        f"yaxis{number}": {
            **quiet,
            "domain": y,
            "anchor": f"x{number}",
            "range": [layers[-1] + 0.5, layers[0] - 0.5],
            "tickvals": layers[::step],
            "ticktext": [f"L{layer}" for layer in layers[::step]],
        },
    }


def _name(text: str, panel: int, colours: Palette) -> dict[str, Any]:
    x, y = _place(panel)
    return {
        "text": text,
        "xref": "paper",
        "x": x[0],
        "xanchor": "left",
        "yref": "paper",
        "y": y[1],
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
