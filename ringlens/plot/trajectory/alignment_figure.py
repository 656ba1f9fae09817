"""Two thoughts side by side, step beside step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown, whole
from ringlens.display import clean
from ringlens.plot.figure import Figure
from ringlens.plot.forms.bars import ROW
from ringlens.plot.forms.canvas import Canvas, Panel
from ringlens.plot.forms.table import check
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

MOST = 40
"""Rows that are drawn at once."""

_LANES = (-0.3, 0.3)
_LETTERS = 46


@refuse_unknown
def alignment(frame: pd.DataFrame, start: int = 0, *, theme: str | None = None) -> PlotlyFigure:
    """Draw an alignment: steps that are partners stand in one row, those without one alone.

    Args:
        frame: A table of `ringlens.analysis.trajectory.alignment`.
        start: First row that is drawn; `MOST` follow.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a line between partners, the wider the more alike; steps without a partner are
        hollow.

    Raises:
        ConfigError: It is no such table, or has no such row.
    """
    texts = ("role_first", "text_first", "role_second", "text_second")
    check(frame, "alignment", "first", "second", "similarity", *texts)
    start = whole("start", start, 0, len(frame) - 1)
    rows = frame.iloc[start : start + MOST]
    a, b = frame.attrs.get("pair", ("first", "second"))
    head = f"Traces {a} and {b}, step beside step"
    canvas = Canvas(theme, head, _below(frame, rows, start), [float(ROW * (len(rows) + 1))])
    panel = canvas.panel(0)
    _draw_links(canvas, panel, rows)
    for lane, (side, trace) in enumerate((("first", a), ("second", b))):
        _draw_steps(canvas, panel, rows, side, lane, f"trace {trace}")
    hidden: Figure = {"showgrid": False, "showticklabels": False, "fixedrange": True}
    canvas.axes(
        panel,
        {**hidden, "range": [-4, 4]},
        {**hidden, "range": [len(rows) - 0.5, -1.5]},
    )
    return canvas.figure()


def _below(frame: pd.DataFrame, rows: pd.DataFrame, start: int) -> str:
    """What the figure is about."""
    attrs: dict[Any, Any] = frame.attrs
    parts = []
    if "paired" in attrs:
        parts.append(f"{attrs['paired']:.0%} of the steps have a partner")
    if "p" in attrs:
        parts.append(f"score {attrs['score']:.2f}, {attrs['null']:.2f} in random order")
        parts.append(f"p = {attrs['p']:.2g}")
    if len(rows) < len(frame):
        parts.append(f"rows {start + 1} to {start + len(rows)} of {len(frame)}")
    return " · ".join(parts)


def _draw_links(canvas: Canvas, panel: Panel, rows: pd.DataFrame) -> None:
    """Draw a line between partners."""
    chance = rows.attrs.get("chance", 0.0)
    for place, similarity in enumerate(rows["similarity"].to_numpy(np.float64)):
        if np.isnan(similarity):
            continue
        part = float(np.clip((similarity - chance) / max(1e-9, 1 - chance), 0, 1))
        canvas.add(
            panel,
            {
                "type": "scatter",
                "mode": "lines",
                "x": list(_LANES),
                "y": [place, place],
                "line": {"color": canvas.colours.accent, "width": 1 + 6 * part},
                "showlegend": False,
                "hoverinfo": "skip",
            },
        )


def _draw_steps(
    canvas: Canvas, panel: Panel, rows: pd.DataFrame, side: str, lane: int, name: str
) -> None:
    """Draw the steps of one trace, with their texts outside."""
    there = np.flatnonzero(rows[side].notna().to_numpy())
    own = rows.iloc[there]
    paired = own["similarity"].notna().to_numpy()
    role, text = (own[f"{what}_{side}"] for what in ("role", "text"))
    look = canvas.mark(name, lane)
    said = [
        f"<b>{safe(name)}, step {step}</b><br>{safe(clean(kind or 'no role', 40))}<br>"
        f"{safe(clean(' '.join(words.split()), 120))}<br>"
        + ("no partner" if np.isnan(s) else f"similarity {s:.2f}")
        for step, kind, words, s in zip(own[side], role, text, own["similarity"], strict=True)
    ]
    labels = [
        f"&nbsp; {step} &nbsp;{safe(clean(' '.join(words.split()), _LETTERS))} &nbsp;"
        for step, words in zip(own[side], text, strict=True)
    ]
    canvas.add(
        panel,
        {
            "type": "scatter",
            "mode": "markers+text",
            "name": name,
            "x": [_LANES[lane]] * (len(own) + 1),
            "y": [-1, *there.tolist()],
            "text": [f"&nbsp; <b>{safe(name)}</b> &nbsp;", *labels],
            "textposition": "middle left" if lane == 0 else "middle right",
            "textfont": {"size": 11, "color": canvas.colours.text},
            "cliponaxis": False,
            "marker": {
                "opacity": 1,
                "size": [0, *([10] * len(own))],
                "symbol": look.symbol,
                "color": [look.colour, *np.where(paired, look.colour, canvas.colours.surface)],
                "line": {"color": look.colour, "width": 2},
            },
            "hovertext": ["", *said],
            "hovertemplate": "%{hovertext}<extra></extra>",
        },
    )
