"""The ledger of reflection: a row of candidate answers for each trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import clean
from ringlens.plot.figure import typed
from ringlens.plot.forms.bars import ROW
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.forms.table import check, scope
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST = 30
"""Traces that are drawn."""

VERDICTS = (("right", 2, "circle"), ("wrong", 1, "x"), ("not graded", 5, "circle-open"))
"""Names of verdicts, the number of their colour, and their marks."""


@refuse_unknown
def reflections(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the candidate answers of each trace in order, right or wrong.

    Args:
        frame: A table of `ringlens.analysis.trajectory.reflections`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a row for each trace, at most `MOST`, those with most candidates first.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "reflections", "trace_id", "number", "step", "answer", "correct", "change")
    counts = frame.groupby("trace_id")["number"].max().sort_values(ascending=False, kind="stable")
    traces = counts.index[:MOST]
    rows = frame[frame["trace_id"].isin(traces)].copy()
    rows["place"] = rows["trace_id"].map({trace: at for at, trace in enumerate(traces)})
    more = [f"the {MOST} traces with most candidates"] if len(counts) > MOST else []
    changes = frame.attrs.get("changes", {})
    named = [f"{count} {name}" for name, count in changes.items() if count]
    head, high = "Candidate answers, one after another", float(ROW * len(traces))
    below = scope(frame, *named, *more)
    canvas = Canvas(theme, head, below, [high], legend=True, left=80)
    panel = canvas.panel(0)
    _draw_ways(canvas, panel, rows)
    for verdict in VERDICTS:
        _draw_verdict(canvas, panel, rows, verdict)
    canvas.axes(
        panel,
        {"title": title("candidate"), "dtick": max(1, int(counts.iloc[0]) // 16), "tick0": 1},
        {
            "showgrid": False,
            "range": [len(traces) - 0.5, -0.5],
            "tickvals": list(range(len(traces))),
            "ticktext": [f"trace {trace}" for trace in traces],
        },
    )
    return canvas.figure()


def _draw_ways(canvas: Canvas, panel: Panel, rows: pd.DataFrame) -> None:
    """Draw a thin line through each trace's candidates."""
    x: list[float] = []
    y: list[float] = []
    for place, own in rows.groupby("place", sort=True):
        x += [1, float(own["number"].max()), np.nan]
        y += [float(place), float(place), np.nan]
    line = {"color": canvas.colours.bar, "width": 1}
    way = {"type": "scatter", "mode": "lines", "x": typed(np.array(x)), "y": typed(np.array(y))}
    canvas.add(panel, {**way, "line": line, "showlegend": False, "hoverinfo": "skip"})


def _draw_verdict(
    canvas: Canvas, panel: Panel, rows: pd.DataFrame, verdict: tuple[str, int, str]
) -> None:
    """Draw the candidates of one verdict."""
    name, number, symbol = verdict
    wanted = {"right": True, "wrong": False}.get(name)
    known = rows["correct"]
    own = rows[known.isna() if wanted is None else known.eq(wanted)]
    if own.empty:
        return
    said = [
        f"<b>{safe(clean(answer, 60))}</b><br>{name}"
        + ("" if pd.isna(change) else f", {change}")
        + ("<br>final answer" if pd.isna(step) else f"<br>step {step}")
        for answer, change, step in zip(own["answer"], own["change"], own["step"], strict=True)
    ]
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": typed(own["number"].to_numpy(np.float64)),
            "y": typed(own["place"].to_numpy(np.float64)),
            "marker": {
                "symbol": symbol,
                "size": 10,
                "color": canvas.mark(name, number).colour,
                "line": {"color": canvas.mark(name, number).colour, "width": 1.5},
            },
            "text": said,
            "hovertemplate": "%{text}<extra></extra>",
        },
    )
