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
from ringlens.plot.figure import Figure, typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.palette import Palette
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.recorded_tables import HEADS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

    from ringlens.store import Trace

_BETWEEN = 0.13
"""Part of the width between two maps: their scales stand there."""


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
    layers, maps, tokens = _means(trace, phase, where)
    high = max(120, min(340, 16 * len(layers)))
    head, below = f"Attention heads of trace {trace.trace_id}", _below(trace, phase, where, tokens)
    canvas = Canvas(theme, head, below, [high, high], 2, right=56, between=_BETWEEN)
    for index, column in enumerate(HEADS.values):
        row, place = divmod(index, 2)
        panel = canvas.panel(row, place)
        canvas.add(panel, _map(maps[column.name], layers, column.unit, panel, canvas.colours))
        canvas.axes(panel, *_axes(layers, maps[column.name].shape[1], lowest=row == 1))
        canvas.name(panel, f"{column.label.lower()}, {column.unit}")
    return canvas.figure()


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


def _axes(layers: list[int], heads: int, *, lowest: bool) -> tuple[Figure, Figure]:
    """Axes of a map; heads are named below the lower row alone."""
    step = max(1, round(len(layers) / 10))
    x = {
        "showgrid": False,
        "range": [-0.5, heads - 0.5],
        "dtick": 1 if heads <= 16 else 8,
        "title": title("head" if lowest else ""),
    }
    y = {
        "showgrid": False,
        "range": [layers[-1] + 0.5, layers[0] - 0.5],
        "tickvals": layers[::step],
        "ticktext": [f"L{layer}" for layer in layers[::step]],
    }
    return x, y


def _below(trace: Trace, phase: str, where: str | None, tokens: int) -> str:
    phases = "prompt, think and answer pooled" if phase == "all" else phase
    chosen = "" if where is None else f" · where {where}"
    return f"mean over {plural(tokens, 'token')} · {phases}{chosen} · {trace.run['model']}"
