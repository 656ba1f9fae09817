"""Which experts are chosen together, or one after the other, as maps of expert × expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.forms import maps
from ringlens.plot.forms.canvas import Canvas
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid, groups, one_layer, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LEAST = 10
"""Fewest times that a pair is drawn for: the lift of a rarer one is noise."""


@dataclass(frozen=True)
class _Pairs:
    """How pairs are written: the column of the other expert, and words."""

    other: str
    head: str
    x: str
    y: str
    said: str


_TOGETHER = _Pairs(
    "other",
    "Experts chosen together",
    "other expert",
    "expert",
    "<b>E%{y}</b> with <b>E%{x}</b>",
)
_FOLLOWING = _Pairs(
    "next",
    "Experts that follow each other",
    "expert on the next layer",
    "expert on this layer",
    "<b>E%{y}</b>, then <b>E%{x}</b> on the next layer",
)


@refuse_unknown
def coactivation(
    frame: pd.DataFrame, *, layer: int | None = None, theme: str | None = None
) -> Figure:
    """Draw how much more often than chance two experts are chosen together, on one layer.

    Args:
        frame: A table of `ringlens.analysis.coactivation`.
        layer: The layer; None for the one with the most pairs counted.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the lift's binary logarithm for each group; pairs that occurred
        fewer than `LEAST` times are grey.

    Raises:
        ConfigError: It is no such table, has no such layer, or has more groups than a figure tells
            apart.
    """
    return _draw(frame, "coactivation", _TOGETHER, layer, theme)


@refuse_unknown
def transitions(
    frame: pd.DataFrame, *, layer: int | None = None, theme: str | None = None
) -> Figure:
    """Draw how much more often than chance an expert follows another on the next layer.

    Args:
        frame: A table of `ringlens.analysis.transitions`.
        layer: The first of the two layers; None for the one with the most pairs counted.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        As `coactivation`.

    Raises:
        ConfigError: As `coactivation`.
    """
    return _draw(frame, "transitions", _FOLLOWING, layer, theme)


def _draw(
    frame: pd.DataFrame, analysis: str, pairs: _Pairs, layer: int | None, theme: str | None
) -> Figure:
    check(frame, analysis, "layer", "expert", pairs.other, "n", "share", "lift")
    shown, of_layer = one_layer(frame, layer)
    rows = of_layer[of_layer["n"] >= LEAST]
    if rows.empty:
        raise ConfigError(f"no pair of layer {shown} occurred {LEAST} times; select more tokens.")
    experts = int(frame[["expert", pairs.other]].to_numpy().max()) + 1
    parts = groups(rows)
    columns = min(2, len(parts))
    below = scope(frame, f"layer {shown}", f"grey: fewer than {LEAST} times")
    heights = [400.0] * (-(-len(parts) // columns))
    canvas = Canvas(theme, pairs.head, below, heights, columns, bottom=maps.ROOM)
    maps.blank(canvas)
    template = pairs.said + "<br>lift {0:.2f}<br>{1:,} times, {2:.1%} of the first's tokens"
    for place, (name, part) in enumerate(parts):
        panel = canvas.panel(*divmod(place, columns))
        canvas.name(panel, name)
        maps.expert_axes(canvas, panel, experts, pairs.x, pairs.y, 32 / columns)
        lift, n, share = (
            grid(part, "expert", pairs.other, column, range(experts), experts)
            for column in ("lift", "n", "share")
        )
        hover = said(template, [lift, n, share])
        maps.draw_map(canvas, panel, maps.log2_lift(lift), range(experts), hover)
    maps.colour_scale(
        canvas, maps.lift_scale("lift: times together, over that of independent ones")
    )
    return canvas.figure()
