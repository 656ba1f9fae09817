"""Contrasts and associations: a map of layer × expert, and what is told from chance in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms import maps
from ringlens.plot.forms.bars import ROW, draw_points, ranked_axes
from ringlens.plot.forms.canvas import Canvas, Panel
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid, groups, scope

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOUND = 0.05
"""False discovery rate up to which a cell is marked."""

LARGEST = 14
"""Experts whose intervals are drawn."""


@refuse_unknown
def contrast(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how differently two selections choose each expert, and how sure that is.

    Args:
        frame: A table of `ringlens.analysis.contrast`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the difference for each group, dots where q is at most `FOUND`; and
        below it the experts of smallest p with their 95% intervals, filled where q is at most
        `FOUND`; these are missing if the table has no intervals.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "contrast", "layer", "expert", "share_a", "share_b", "difference", "p", "q")
    parts = groups(frame)
    layers, experts = sorted(frame["layer"].unique()), int(frame["expert"].max()) + 1
    high = maps.row_height(len(layers) * 2) * len(layers)
    best = frame.sort_values(["p", "difference"], key=np.abs, ascending=[True, False]).head(LARGEST)
    intervals = [float(ROW * len(best))] if {"low", "high"} <= set(frame.columns) else []
    attrs = frame.attrs
    told = f"{int((frame['q'] <= FOUND).sum()):,} of {len(frame):,} at q ≤ {FOUND:g}"
    below = scope(pd.DataFrame(), told, *_about(attrs))
    head = f"{attrs.get('a', 'a')} against {attrs.get('b', 'b')}"
    heights = [high] * len(parts) + intervals
    canvas = Canvas(theme, head, below, heights, bottom=maps.ROOM, left=68)
    edge = float(np.nanquantile(frame["difference"].abs(), 0.995)) or 1.0
    for row, (name, rows) in enumerate(parts):
        panel = canvas.panel(row)
        canvas.name(panel, name or "difference of shares; dots: q ≤ 0.05")
        _map(canvas, panel, rows, layers, experts)
    if intervals:
        _points(canvas, canvas.panel(len(parts)), best)
    name = "share of tokens that chose it, first minus second"
    maps.colour_scale(canvas, maps.Scale(-edge, edge, name, True, form="+.0%"))
    return canvas.figure()


def _about(attrs: dict) -> list[str]:
    paired = attrs.get("paired")
    within = "equal tokens only" if attrs.get("within") else "all tokens"
    traces = f"{attrs['traces']:,} traces" if "traces" in attrs else ""
    how = "each compared with itself" if paired and all(paired) else ""
    return [part for part in (within, traces, how) if part]


def _map(canvas: Canvas, panel: Panel, rows: pd.DataFrame, layers: list[int], experts: int) -> None:
    """Differences of one group, and dots."""
    names = ("difference", "share_a", "share_b", "q")
    values = [grid(rows, "layer", "expert", name, layers, experts) for name in names]
    template = (
        "<b>L%{y:d} · E%{x}</b><br>difference {0:+.2%}<br>first {1:.2%}, second {2:.2%}<br>"
        "q = {3:.3f}"
    )
    maps.layer_axes(canvas, panel, layers, experts, "expert")
    maps.draw_map(canvas, panel, values[0], layers, said(template, values))
    _dots(canvas, panel, rows, len(layers))


def _dots(canvas: Canvas, panel: Panel, rows: pd.DataFrame, layers: int) -> None:
    """Mark what is told from chance."""
    marked = rows[rows["q"] <= FOUND]
    maps.found(canvas, panel, marked["layer"].to_numpy(), marked["expert"].to_numpy(), layers)


def _points(canvas: Canvas, panel: Panel, best: pd.DataFrame) -> None:
    """Intervals of single experts."""
    canvas.name(panel, "smallest p; filled: q ≤ 0.05; bars: 95% intervals over traces")
    labels = [f"L{row.layer} · E{row.expert}" for row in best.itertuples()]
    template = "<b>{3:d}/{4:d}</b> difference {0:+.2%} ({1:+.2%} to {2:+.2%})<br>q = {5:.3f}"
    columns = [
        best[c].to_numpy(float) for c in ("difference", "low", "high", "layer", "expert", "q")
    ]
    difference, low, high = columns[:3]
    filled = best["q"].to_numpy() <= FOUND
    draw_points(canvas, panel, difference, low, high, filled, said(template, columns))
    ranked_axes(canvas, panel, labels, "", "+.0%")
    canvas.line(panel, x=0)


@refuse_unknown
def association(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw how each expert goes with each event, as normalised pointwise mutual information.

    Args:
        frame: A table of `ringlens.analysis.association`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of nPMI for each event and group, dots where q is at most `FOUND`.

    Raises:
        ConfigError: It is no such table, or has more events and groups than a figure tells apart.
    """
    check(frame, "association", "event", "layer", "expert", "npmi", "lift", "q")
    grouped = [c for c in frame.attrs.get("by", ()) if c != frame.attrs.get("event")]
    frame = frame.copy()
    frame.attrs["by"] = grouped
    parts = groups(frame, "event")
    layers, experts = sorted(frame["layer"].unique()), int(frame["expert"].max()) + 1
    high = maps.row_height(len(layers) * min(2, len(parts))) * len(layers)
    together = frame["npmi"][frame["npmi"] > -1].abs()
    edge = max(0.05, round(float(together.quantile(0.99)), 2)) if len(together) else 1.0
    below = scope(frame, "0 independent, 1 always together; dots: q ≤ 0.05")
    canvas = Canvas(theme, "What experts go with", below, [high] * len(parts), bottom=maps.ROOM)
    template = "<b>L%{y:d} · E%{x}</b><br>nPMI {0:+.3f}, lift {1:.2f}<br>q = {2:.3f}"
    for row, (name, rows) in enumerate(parts):
        panel = canvas.panel(row)
        canvas.name(panel, name)
        values = [grid(rows, "layer", "expert", c, layers, experts) for c in ("npmi", "lift", "q")]
        maps.layer_axes(canvas, panel, layers, experts, "expert" if row == len(parts) - 1 else "")
        maps.draw_map(canvas, panel, values[0], layers, said(template, values))
        _dots(canvas, panel, rows, len(layers))
    maps.colour_scale(canvas, maps.Scale(-edge, edge, "nPMI; never together is −1", True))
    return canvas.figure()
