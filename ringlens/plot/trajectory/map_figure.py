"""The map of a problem: a line through the steps of each trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import clean, plural
from ringlens.errors import ConfigError
from ringlens.plot.figure import Figure, typed
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.forms.table import MOST, check
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

AXES = ("pc1", "pc2")

HEIGHT = 440
"""Pixels of the map."""


@refuse_unknown
def step_map(
    frame: pd.DataFrame, problem: str | None = None, *, theme: str | None = None
) -> PlotlyFigure:
    """Draw the paths of a problem's traces on their map; backtracks are ringed.

    Args:
        frame: A table of `ringlens.analysis.trajectory.step_map`.
        problem: The problem; None for the one with most traces, of these the one with most steps.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line for each of the first six traces; a large mark is where one begins.

    Raises:
        ConfigError: It is no such table, has no such problem, or only one axis.
    """
    check(frame, "step_map", "trace_id", "step", "text", "role", "is_backtrack", *AXES)
    chosen, rows = _one_problem(frame, problem)
    traces = rows["trace_id"].unique()
    drawn = plural(len(traces), "trace")
    drawn = f"{MOST} of {drawn}" if len(traces) > MOST else drawn
    kind = frame.attrs.get("kind", "routing")
    head = f"Steps of {chosen}, by {kind}" if chosen else f"Steps, by {kind}"
    below = f"{drawn} · a large mark is the first step, a ringed one goes back"
    canvas = Canvas(theme, head, below, [HEIGHT], legend=True)
    panel = canvas.panel(0)
    for number, trace in enumerate(traces[:MOST]):
        _draw_path(canvas, panel, rows[rows["trace_id"] == trace], number)
    share = frame.attrs.get("explained", {}).get(chosen or None, [np.nan, np.nan])
    names = [
        f"component {axis + 1}" + ("" if np.isnan(part) else f", {part:.0%} of the variance")
        for axis, part in enumerate(share[:2])
    ]
    quiet: Figure = {"nticks": 5, "showgrid": True}
    canvas.axes(panel, {**quiet, "title": title(names[0])}, {**quiet, "title": title(names[1])})
    return canvas.figure()


def _one_problem(frame: pd.DataFrame, problem: str | None) -> tuple[str, pd.DataFrame]:
    """Name and rows of the problem that is drawn."""
    named = frame["problem_id"].fillna("") if "problem_id" in frame else pd.Series("", frame.index)
    if problem is None:
        size = frame.groupby(named)["trace_id"].agg(["nunique", "size"])
        problem = str(size.sort_values(["nunique", "size"]).index[-1])
    rows = frame[named == problem]
    if rows.empty:
        known = ", ".join(clean(name, 40) for name in named.unique()[:20])
        raise ConfigError(f"problem {problem!r:.60} is not in the table; {known} are.")
    return problem, rows


def _draw_path(canvas: Canvas, panel: Panel, own: pd.DataFrame, number: int) -> None:
    """Draw one trace."""
    first = own.iloc[0]
    verdict = {True: ", right", False: ", wrong"}.get(first.get("correct"), "")
    name = f"trace {first['trace_id']}{verdict}"
    look = canvas.mark(name, number)
    back_S = own["is_backtrack"].eq(True).to_numpy()
    size = np.full(len(own), 7)
    size[0] = 14
    said = [
        f"<b>{safe(name, 60)}, step {step}</b><br>{safe(clean(role or 'no role', 40))}<br>"
        f"{safe(clean(' '.join(text.split()), 90))}"
        for step, role, text in zip(own["step"], own["role"], own["text"], strict=True)
    ]
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": safe(name, 40),
            "x": typed(own["pc1"].to_numpy(np.float64)),
            "y": typed(own["pc2"].to_numpy(np.float64)),
            "line": {"color": look.colour, "width": 1, "dash": look.dash},
            "marker": {
                "opacity": 1,
                "symbol": look.symbol,
                "size": size.tolist(),
                "color": look.colour,
                "line": {"color": canvas.colours.text, "width": (2 * back_S).tolist()},
            },
            "text": said,
            "hovertemplate": "%{text}<extra></extra>",
        },
    )
