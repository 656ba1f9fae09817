"""What a model does with fewer experts: curves over how many stay, and models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.plot.figure import typed
from ringlens.plot.forms.bars import ROW, draw_points, ranked_axes
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import MOST, check
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HIGH = 270
FULL, FLOOR = "none", "random"
"""Criteria of the full model, and of the floor of all others."""


@refuse_unknown
def pruning_curve(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the rise of the loss and the accuracy of each criterion over the experts that stay.

    Args:
        frame: A table of `ringlens.prune.pruning_curve`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line for each criterion, which all begin at the full model; the random one,
        the floor of all others, is grey and dotted.

    Raises:
        ConfigError: It is no such table, or has more criteria than a figure tells apart.
    """
    check(frame, "pruning_curve", "criterion", "keep", "loss_increase", "accuracy", "low", "high")
    names = [name for name in dict.fromkeys(frame["criterion"]) if name not in (FULL, FLOOR)]
    if len(names) > MOST:
        raise ConfigError(f"{len(names)} criteria, and a figure tells {MOST} apart; select some.")
    full = frame[frame["criterion"] == FULL]
    ranked = [name for name in dict.fromkeys(frame["criterion"]) if name != FULL]
    below = "each line begins at the full model · grey: random, which others must beat"
    canvas = Canvas(theme, "What fewer experts cost", below, [_HIGH], 2, legend=True)
    panels = [
        (
            "loss_increase",
            "rise of the loss, nats a token",
            "",
            "{0:.3f} nats above the full model",
        ),
        ("accuracy", "problems solved", ".0%", "{0:.1%} solved (95%: {1:.1%} to {2:.1%})"),
    ]
    for place, (column, name, form, words) in enumerate(panels):
        panel = canvas.panel(0, place)
        canvas.name(panel, name)
        canvas.axes(
            panel,
            {
                "title": title("experts that stay"),
                "tickformat": ".0%",
                "autorange": "reversed",
                "showgrid": False,
                "tickvals": sorted(frame["keep"].unique()),
            },
            {"rangemode": "tozero", "nticks": 6, "tickformat": form},
        )
        for criterion in ranked:
            rows = pd.concat([full, frame[frame["criterion"] == criterion]])
            rows = rows.sort_values("keep", ascending=False, kind="stable")
            number = None if criterion == FLOOR else names.index(criterion)
            _line(canvas, panel, rows, column, words, (criterion, number), legend=place == 0)
    return canvas.figure()


def _line(
    canvas: Canvas,
    panel: Panel,
    rows: pd.DataFrame,
    column: str,
    words: str,
    series: tuple[str, int | None],
    *,
    legend: bool,
) -> None:
    """A criterion's line; without a number it is the floor."""
    name, number = series
    look = canvas.mark(name, number or 0)
    floor = number is None
    colour = canvas.colours.text_3 if floor else look.colour
    values = [rows[column], rows["low"], rows["high"]]
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": safe(name, 40),
            "legendgroup": name,
            "showlegend": legend,
            "x": typed(rows["keep"].to_numpy(np.float64)),
            "y": typed(rows[column].to_numpy(np.float64)),
            "text": [f"{safe(name, 40)}, {keep:.0%} of the experts" for keep in rows["keep"]],
            "line": {"color": colour, "width": 2, "dash": "dot" if floor else look.dash},
            "marker": {"symbol": "circle" if floor else look.symbol, "size": 7, "color": colour},
            **said(f"<b>%{{text}}</b><br>{words}", values),
        },
    )


@refuse_unknown
def evaluation(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how many problems each model solves, with its 95% interval.

    Args:
        frame: A table of `ringlens.prune.evaluate`; a column ``model``, where there is one, names
            the rows.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a point for each row, in their order.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "evaluate", "criterion", "keep", "accuracy", "low", "high", "problems")
    named = [
        "full model" if criterion == FULL else f"{criterion}, {keep:.0%} of the experts"
        for criterion, keep in zip(frame["criterion"], frame["keep"], strict=True)
    ]
    labels = [safe(str(name), 40) for name in frame.get("model", pd.Series(named))]
    below = f"share of {int(frame['problems'].max()):,} problems · bars: 95% intervals"
    canvas = Canvas(theme, "Problems solved", below, [max(90, 2 * ROW * len(frame))], left=150)
    panel = canvas.panel(0)
    ranked_axes(canvas, panel, labels, "problems solved", ".0%", range=[-0.02, 1.02])
    values = [frame[name].to_numpy(np.float64) for name in ("accuracy", "low", "high")]
    filled = (frame["criterion"] == FULL).to_numpy()
    template = "{0:.1%} solved (95%: {1:.1%} to {2:.1%})"
    accuracy, low, high = values
    draw_points(canvas, panel, accuracy, low, high, filled, said(template, values))
    return canvas.figure()
