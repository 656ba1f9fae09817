"""One trace as a figure: entropy and router margin along its tokens, with its phases."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ringlens.config import refuse_unknown
from ringlens.display import plural
from ringlens.errors import NotInStoreError
from ringlens.plot.figure import Figure, typed
from ringlens.plot.palette import Palette
from ringlens.plot.theme import PHASE_COLOURS, colours_of, drawn, frame, safe, titled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

    from ringlens.store import Trace

_LONG = 4_000
"""Tokens from which on WebGL draws the lines."""

_AROUND = 4
"""Tokens shown on each side of the one under the pointer."""


@refuse_unknown
def trace(trace: Trace, *, layer: int | None = None, theme: str | None = None) -> PlotlyFigure:
    """Draw entropy and router margin along the tokens of a trace.

    Args:
        trace: The trace.
        layer: Layer of the margin; None for the mean over all layers that route.
        theme: "light" or "dark"; None follows plotly's default template.

    Raises:
        NotInStoreError: Neither log-probabilities nor routing were recorded; or routing of
            ``layer`` was not.
    """
    theme, colours = colours_of(theme)
    tokens = trace.tokens()
    margin_T, layers = _margin(trace, layer)
    panels = [
        ("entropy, nats", tokens["entropy"], colours.accent),
        (f"router margin, {layers}", margin_T, PHASE_COLOURS[theme]["answer"]),
    ]
    shown = [panel for panel in panels if np.isfinite(panel[1]).any()]
    if not shown:
        raise NotInStoreError(
            f"neither log-probabilities nor routing were recorded for trace {trace.trace_id}: "
            "replay it with record=['logprobs', 'routing']"
        )
    missing = [name for name, _, _ in panels if name not in {name for name, _, _ in shown}]
    data = [
        _line(values, name, colour, tokens, row)
        for row, (name, values, colour) in enumerate(shown, 1)
    ]
    title = titled(f"Trace {trace.trace_id}", _scope(trace, missing), colours)
    layout = frame(colours, title, 130 + 150 * len(shown))
    layout |= _axes([name for name, _, _ in shown], colours, len(trace))
    layout["shapes"], layout["annotations"] = _bands(tokens["phase"], PHASE_COLOURS[theme])
    return drawn({"data": data, "layout": layout})


def _margin(trace: Trace, layer: int | None) -> tuple[NDArray[np.float32], str]:
    """Margin of each token, NaN where there is none, and which layers it is of."""
    margin_T = np.full(len(trace), np.nan, np.float32)
    if layer is not None:
        routing = trace.routing(layer)
        if routing["margin"] is not None:
            margin_T[routing["pos"]] = routing["margin"]
        return np.where(np.isfinite(margin_T), margin_T, np.nan), f"layer {layer}"
    pos, mean, layers = trace.mean_margin()
    margin_T[pos] = mean
    return margin_T, f"mean of {plural(layers, 'layer')}"


def _line(
    values_T: NDArray, name: str, colour: str, tokens: dict[str, Any], row: int
) -> dict[str, Any]:
    """One line; null where a number is not known, so that it breaks there."""
    kind = "scattergl" if len(values_T) > _LONG else "scatter"
    return {
        "type": kind,
        "mode": "lines",
        "x0": 0,
        "dx": 1,
        "y": typed(values_T),
        "text": _around(tokens["text"]),
        "customdata": tokens["phase"],
        "line": {"color": colour, "width": 1.3},
        "yaxis": "y" if row == 1 else f"y{row}",
        "hovertemplate": f"%{{text}}<br>{name.partition(',')[0]} <b>%{{y:.3f}}</b>"
        " · position %{x} · %{customdata}<extra></extra>",
    }


def _around(texts: list[str]) -> list[str]:
    """Each token in its surroundings, as markup of plotly."""
    shown = [safe(text, 40).replace("\n", "↵") for text in texts]
    return [
        f"{''.join(shown[max(0, i - _AROUND) : i])}<b>{token or '∅'}</b>"
        f"{''.join(shown[i + 1 : i + 1 + _AROUND])}"
        for i, token in enumerate(shown)
    ]


def _bands(phases: list[str], colours: dict[str, str]) -> tuple[list[Figure], list[Figure]]:
    """A band behind each stretch of one phase, named above where there is room."""
    shapes: list[Figure] = []
    names: list[Figure] = []
    start = 0
    for phase, group in groupby(phases):
        stop = start + len(list(group))
        band = {"type": "rect", "xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
        edges = {"x0": start - 0.5, "x1": stop - 0.5, "line": {"width": 0}, "opacity": 0.12}
        shapes.append({**band, **edges, "fillcolor": colours[phase]})
        if stop - start > 0.05 * len(phases):
            name = {"xref": "x", "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False}
            place = {"x": (start + stop - 1) / 2, "font": {"size": 11, "color": colours[phase]}}
            names.append({**name, **place, "text": phase})
        start = stop
    return shapes, names


def _axes(names: list[str], colours: Palette, tokens: int) -> dict[str, Any]:
    quiet = {"zeroline": False, "gridcolor": colours.line, "tickfont": {"color": colours.text_3}}
    high = (1 - 0.12 * (len(names) - 1)) / len(names)
    axes: dict[str, Any] = {
        "xaxis": {
            **quiet,
            "showgrid": False,
            "range": [-0.5, tokens - 0.5],
            "title": {"text": "position in the trace, tokens", "standoff": 8},
            "anchor": "y" if len(names) == 1 else f"y{len(names)}",
        },
        "margin": {"l": 52, "r": 16, "t": 84, "b": 48},
        "hovermode": "x",
    }
    for row, name in enumerate(names):
        bottom = 1 - (row + 1) * high - 0.12 * row
        axes["yaxis" if row == 0 else f"yaxis{row + 1}"] = {
            **quiet,
            "domain": [max(0.0, bottom), bottom + high],
            "rangemode": "tozero",
            "nticks": 4,
            "title": {"text": name.replace(", ", "<br>"), "font": {"size": 11}},
        }
    return axes


def _scope(trace: Trace, missing: list[str]) -> str:
    row = trace.summary
    about = [row["problem_id"], {True: "correct", False: "wrong"}.get(row["correct"])]
    lacks = f"{missing[0].partition(',')[0]} was not recorded" if missing else None
    parts = [trace.run["model"], *about, plural(len(trace), "token"), row["finish_reason"], lacks]
    return " · ".join(str(part) for part in parts if part)
