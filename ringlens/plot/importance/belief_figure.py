"""Belief along thoughts: the probability of the final answer, and how open the answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import clean, plural
from ringlens.plot.figure import typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.forms.table import MOST, check
from ringlens.plot.heatmap import ticks
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HIGH = 190
"""Pixels of a panel."""


@refuse_unknown
def belief(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how probable the final answer is after each step, and the entropy of the answer.

    Args:
        frame: A table of `ringlens.analysis.importance.belief.belief`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line for each of the first six traces; a filled mark is a place at which the
        final answer is the most probable of all.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "belief", "trace_id", "step", "answer", "p_final", "is_final", "held", "entropy")
    traces = frame["trace_id"].unique()
    many = plural(len(traces), "thought")
    many = f"{MOST} of {many}" if len(traces) > MOST else many
    below = f"{many} · a filled mark: no other answer is more probable than the final one"
    canvas = Canvas(theme, "When it decided", below, [HIGH, HIGH], legend=True)
    for number, trace in enumerate(traces[:MOST]):
        own = frame[frame["trace_id"] == trace].sort_values("step")
        for row, column in enumerate(("p_final", "entropy")):
            _draw(canvas, canvas.panel(row), own, column, number)
    last = int(frame["step"].max())
    x = {"dtick": ticks(last + 2, 24), "tick0": 0, "range": [-1.5, last + 0.5], "showgrid": False}
    canvas.name(canvas.panel(0), "probability of the final answer")
    canvas.axes(canvas.panel(0), x, {"range": [-0.05, 1.05], "nticks": 5, "tickformat": ".0%"})
    canvas.name(canvas.panel(1), "entropy of the answer, nats")
    named = {"title": title("made to answer behind step (−1: before the first)")}
    canvas.axes(canvas.panel(1), {**x, **named}, {"rangemode": "tozero", "nticks": 5})
    return canvas.figure()


def _draw(canvas: Canvas, panel: Panel, own: pd.DataFrame, column: str, number: int) -> None:
    """Draw one trace in one panel."""
    name = f"trace {own['trace_id'].iloc[0]}"
    look = canvas.mark(name, number)
    final_K = (own["is_final"].eq(True) & own["held"]).to_numpy(bool)
    said = [
        f"<b>{safe(name, 40)}, step {step}</b><br>{safe(clean(answer, 60))} {p:.0%}"
        for step, answer, p in zip(own["step"], own["answer"], own["p"], strict=True)
    ]
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": safe(name, 40),
            "legendgroup": str(number),
            "showlegend": column == "p_final",
            "x": typed(own["step"].to_numpy(np.float64)),
            "y": typed(own[column].to_numpy(np.float64)),
            "line": {"color": look.colour, "width": 2, "dash": look.dash},
            "marker": {
                "symbol": look.symbol,
                "size": 8,
                "color": [look.colour if f else canvas.colours.surface for f in final_K],
                "line": {"color": look.colour, "width": 1.5},
            },
            "text": said,
            "hovertemplate": "%{text}<extra></extra>",
        },
    )
