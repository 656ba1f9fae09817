"""Routing paths, ranked; and clusters of them against what runs along them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.display import spans
from ringlens.plot.forms import maps
from ringlens.plot.forms.bars import ROW, draw_bars, largest, ranked_axes
from ringlens.plot.forms.canvas import Canvas, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import check, groups, scope
from ringlens.plot.theme import safe
from ringlens.store.schema.captured import PHASES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST = 20
"""Paths, or clusters, that are drawn."""

_VALUES = ("share", "n", "tokens", "expected", "lift", "coverage")
_COUNTS = ("lift", "n", "tokens", "share", "overall")


def _arrows(path: list[int]) -> str:
    return safe(" → ".join(map(str, path)), 34)


@refuse_unknown
def routing_path(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw the paths that most tokens take; the pointer is told what chance has them be.

    Args:
        frame: A table of `ringlens.analysis.routing_path`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of ranked bars, at most `MOST`.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "routing_path", "path", *_VALUES)
    best = largest(frame, "share", MOST)
    parts, several = groups(best), len(groups(best)) > 1
    layers = frame.attrs.get("layers")
    band = [f"layers {spans(layers)}"] if layers else []
    below = scope(frame, *band, f"the {len(best)} most frequent of those listed")
    high = float(ROW * len(best))
    head = "Paths of the heaviest experts"
    canvas = Canvas(theme, head, below, [high], legend=several, left=170)
    panel = canvas.panel(0)
    template = (
        "{0:.2%} of tokens ({1:,} of {2:,})<br>{3:.3%} by chance: lift {4:.1f}<br>"
        "{5:.1%} take this path or one above it"
    )
    for number, (name, rows) in enumerate(parts):
        values, places = [rows[c].to_numpy(float) for c in _VALUES], rows["place"].to_list()
        hover = said(template, values)
        draw_bars(canvas, panel, values[0], (name, number), hover, places=places, legend=several)
    labels = [_arrows(path) for path in best["path"]]
    ranked_axes(canvas, panel, labels, "share of tokens", "~%", rangemode="tozero")
    return canvas.figure()


@refuse_unknown
def path_clusters(frame: pd.DataFrame, *, theme: str | None = None) -> Figure:
    """Draw which tokens run along each cluster of paths, as a map of cluster × value.

    Args:
        frame: A table of `ringlens.analysis.path_clusters`.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure with a map of the lift for each group, of the clusters that most tokens take.

    Raises:
        ConfigError: It is no such table, or has more groups than a figure tells apart.
    """
    check(frame, "path_clusters", "cluster", "center", "size", *_COUNTS)
    over = str(frame.attrs.get("over", frame.columns[list(frame.columns).index("size") + 1]))
    rows = frame[frame["cluster"] <= MOST].copy()
    rows.attrs = frame.attrs | {"by": [c for c in frame.attrs.get("by", ()) if c != over]}
    parts = groups(rows)
    heights = [float(ROW * part["cluster"].nunique()) for _, part in parts]
    below = scope(frame, "a path stands for its cluster")
    head = f"Clusters of paths by {over}"
    canvas = Canvas(theme, head, below, heights, bottom=maps.ROOM, left=190)
    maps.blank(canvas)
    template = "lift {0:.2f}<br>{1:,} of {2:,} tokens take it ({3:.2%})<br>{4:.2%} of all tokens do"
    for place, (name, part) in enumerate(parts):
        panel = canvas.panel(place)
        canvas.name(panel, name)
        names = [v for v in PHASES if (part[over] == v).any()] or sorted(part[over].unique())
        tables = [part.pivot(index="cluster", columns=over, values=c)[names] for c in _COUNTS]
        values = [table.to_numpy(np.float64) for table in tables]
        maps.draw_map(
            canvas, panel, maps.log2_lift(values[0]), range(len(tables[0])), said(template, values)
        )
        clusters = part.drop_duplicates("cluster").sort_values("cluster")
        labels = [f"{_arrows(row.center)} ({row.size})" for row in clusters.itertuples()]
        ranked_axes(canvas, panel, labels, "", "")
        canvas.layout[f"xaxis{panel.axes}"] |= {
            "showgrid": False,
            "range": [-0.5, len(names) - 0.5],
            "tickvals": list(range(len(names))),
            "ticktext": [safe(str(value), 24) for value in names],
            "title": title(over if place == len(parts) - 1 else ""),
        }
    maps.colour_scale(canvas, maps.lift_scale("lift: share of these tokens, over that of all"))
    return canvas.figure()
