"""What a training changed: a map of layer × expert, and what is left under each control."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import clean, plural
from ringlens.plot.figure import typed
from ringlens.plot.forms import maps
from ringlens.plot.forms.bars import ranked_axes
from ringlens.plot.forms.canvas import Canvas, Panel
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, grid, scope
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOUND = 0.05
"""False discovery rate up to which a change is marked."""

LARGEST = 10
"""Experts that are drawn one by one."""

_ROW = 38
"""Pixels of an expert, with a point for each control."""

_NAMES = {"": "own thoughts", "_words": "equal tokens of a problem", "_texts": "the same texts"}
_COLUMNS = ("layer", "expert", "before", "after", "difference", "p", "q")


@refuse_unknown
def changed_experts(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw which experts a training changed the use of, and what of it is not the words.

    Args:
        frame: A table of `ringlens.analysis.changed_experts`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the difference in the checkpoints' own thoughts, dots where q is at
        most `FOUND`; and below it the first `LARGEST` experts of the table with a point for each
        control, filled where its q is at most `FOUND`; bars are 95% intervals over problems, if the
        table has them.

    Raises:
        ConfigError: It is no such table.
    """
    check(frame, "changed_experts", *_COLUMNS, "difference_words")
    layers, experts = sorted(frame["layer"].unique()), int(frame["expert"].max()) + 1
    best = frame.head(LARGEST)
    before, after = (clean(name, 30) for name in frame.attrs.get("checkpoints", ("a", "b")))
    problems = frame.attrs.get("problems")
    told = [f"{int((frame['q'] <= FOUND).sum()):,} of {len(frame):,} at q ≤ {FOUND:g}"]
    told += [] if problems is None else [plural(problems, "problem")]
    heights = [maps.row_height(len(layers)) * len(layers), float(_ROW * len(best))]
    head = f"Use of experts, {before} to {after}"
    below = scope(pd.DataFrame(), *told)
    canvas = Canvas(theme, head, below, heights, legend=True, bottom=maps.ROOM, left=68)
    panel = canvas.panel(0)
    canvas.name(panel, "change in own thoughts; dots: q ≤ 0.05")
    maps.layer_axes(canvas, panel, layers, experts, "expert")
    values = [grid(frame, "layer", "expert", c, layers, experts) for c in _COLUMNS[2:5]]
    values.append(grid(frame, "layer", "expert", "q", layers, experts))
    template = (
        "<b>L%{y:d} · E%{x}</b><br>{2:+.2%} within problems<br>{0:.2%} of all tokens before, "
        "{1:.2%} after<br>q = {3:.3f}"
    )
    maps.draw_map(canvas, panel, values[2], layers, said(template, values))
    marked = frame[frame["q"] <= FOUND]
    maps.found(canvas, panel, marked["layer"].to_numpy(), marked["expert"].to_numpy(), len(layers))
    _controls(canvas, canvas.panel(1), best)
    edge = float(np.nanquantile(frame["difference"].abs(), 0.995)) or 1.0
    name = "share of tokens that chose it, after minus before"
    maps.colour_scale(canvas, maps.Scale(-edge, edge, name, True, form="+.1%"))
    return canvas.figure()


def _controls(canvas: Canvas, panel: Panel, best: pd.DataFrame) -> None:
    """Points of single experts, a series for each control."""
    bars = "low" in best.columns
    extent = "; bars: 95% intervals over problems" if bars else ""
    canvas.name(panel, f"most changed; filled: q ≤ 0.05{extent}")
    there = [end for end in _NAMES if f"difference{end}" in best.columns]
    for number, end in enumerate(there):
        look, value = canvas.mark(_NAMES[end], number), best[f"difference{end}"].to_numpy(float)
        found = best[f"q{end}"].to_numpy() <= FOUND
        columns = [value, best[f"q{end}"].to_numpy(float), *(best[c] for c in ("layer", "expert"))]
        marker = {
            "size": 8,
            "symbol": look.symbol,
            "color": [look.colour if full else canvas.colours.surface for full in found],
            "line": {"color": look.colour, "width": 2},
        }
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": safe(_NAMES[end]),
            "x": typed(value),
            "y": [place + 0.24 * (number - (len(there) - 1) / 2) for place in range(len(best))],
            "marker": marker,
            **said(f"<b>{{2:d}}/{{3:d}}</b> {_NAMES[end]}: {{0:+.2%}}<br>q = {{1:.3f}}", columns),
        }
        if bars:
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": typed(best[f"high{end}"].to_numpy(float) - value),
                "arrayminus": typed(value - best[f"low{end}"].to_numpy(float)),
                "color": look.colour,
                "thickness": 1.3,
                "width": 3,
            }
        canvas.add(panel, trace)
    labels = [f"L{row.layer} · E{row.expert}" for row in best.itertuples()]
    ranked_axes(canvas, panel, labels, "", "+.1%")
    canvas.line(panel, x=0)
