"""Heads that look back at single steps, beside chance and recency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOUND = 0.05
"""Largest q-value of a head that is marked."""

_COLUMNS = ("traces", "score", "by_chance", "p", "q", "beyond_recency", "recency")
_TEMPLATE = (
    "<br>score {0:.1f}, by chance {1:.1f}<br>q {2:.3f}<br>beyond recency {3:.1f}"
    "<br>{4:.0%} of its attention within a step"
)


@refuse_unknown
def receiver_heads(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how unequally each head looks back at steps, and how much of it is recency.

    Args:
        frame: A table of `ringlens.analysis.receiver_heads`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of two panels: a map of the score over layers and heads, with dots on heads beyond
        chance; and the score of each head over the share of its attention that stays within a step,
        heads beyond chance filled.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "receiver_heads", "layer", "head", *_COLUMNS)
    layers, heads = sorted(frame["layer"].unique()), int(frame["head"].max()) + 1
    high = max(300.0, maps.row_height(len(layers)) * len(layers))
    below = frame.attrs.get("said", "") or f"dots: beyond chance at q ≤ {FOUND:g}"
    canvas = Canvas(
        theme, "Heads that look back at single steps", below, [high], 2, bottom=maps.ROOM
    )
    _map(canvas, frame, layers, heads)
    _recency(canvas, frame)
    drawn = frame["score"].to_numpy()
    edge = float(np.nanmax(np.abs(drawn))) or 1.0
    name = "score: excess kurtosis of the attention that steps receive"
    maps.colour_scale(canvas, maps.Scale(-edge, edge, name, True, form="~g"))
    return canvas.figure()


def _map(canvas: Canvas, frame: pd.DataFrame, layers: list[int], heads: int) -> None:
    """The score over layers and heads."""
    panel = canvas.panel(0)
    canvas.name(panel, "score; dots: beyond chance")
    maps.layer_axes(canvas, panel, layers, heads, "head")
    shown = [
        grid(frame, "layer", "head", name, layers, heads)
        for name in ("score", "by_chance", "q", "beyond_recency", "recency")
    ]
    maps.draw_map(
        canvas, panel, shown[0], layers, said("<b>L%{y:d} · H%{x}</b>" + _TEMPLATE, shown)
    )
    beyond = frame[frame["q"] <= FOUND]
    rows, columns = beyond["layer"].to_numpy(), beyond["head"].to_numpy()
    maps.found(canvas, panel, rows, columns, len(layers))


def _recency(canvas: Canvas, frame: pd.DataFrame) -> None:
    """The score of each head over its recency."""
    panel = canvas.panel(0, 1)
    canvas.name(panel, "score over recency; filled: beyond chance")
    canvas.axes(
        panel,
        {"tickformat": ".0%", "title": title("attention on steps that stays within a step")},
        {"title": title("score")},
    )
    look = canvas.mark("heads", 0)
    for beyond in (False, True):
        part = frame[(frame["q"] <= FOUND) == beyond]
        names = [
            f"L{layer} · H{head}" for layer, head in zip(part["layer"], part["head"], strict=True)
        ]
        shown = [part[name] for name in ("score", "by_chance", "q", "beyond_recency", "recency")]
        canvas.add(
            panel,
            {
                "type": "scatter",
                "mode": "markers",
                "x": part["recency"].tolist(),
                "y": part["score"].tolist(),
                "text": names,
                "marker": {
                    "symbol": "circle" if beyond else "circle-open",
                    "size": 9,
                    "color": look.colour,
                },
                "showlegend": False,
                **said("<b>%{text}</b>" + _TEMPLATE, shown),
            },
        )
