"""The words that experts serve: ranked for one expert, as a map for several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.config import refuse_unknown
from ringlens.plot.forms import maps
from ringlens.plot.forms.bars import ROW, draw_bars, ranked_axes, word
from ringlens.plot.forms.canvas import Canvas, Panel, title
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import Groups, check, groups, one_layer, scope
from ringlens.plot.heatmap import ticks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST = 24
"""Most words of a figure."""

_SAID = "{0:.1%} of its occurrences ({1:,} of {2:,})<br>lift {3:.2f}"
_VALUES = ("share", "n", "occurrences", "lift")


@refuse_unknown
def token_experts(
    frame: pd.DataFrame, *, layer: int | None = None, theme: str | None = None
) -> Figure:
    """Draw how large a share of a word's occurrences chooses an expert, on one layer.

    Args:
        frame: A table of `ringlens.analysis.token_experts`.
        layer: The layer; None for the one with the most choices in the table.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of the `MOST` words with the largest shares. For several experts it is a map of
        words and experts for each group, ordered by the expert that a word chooses most; for one
        expert these are ranked bars.

    Raises:
        ConfigError: It is no such table, has no such layer, or has more groups than a figure tells
            apart.
    """
    check(frame, "token_experts", "layer", "expert", "token_id", "text", *_VALUES)
    shown, rows = one_layer(frame, layer)
    parts = groups(rows)
    if rows["expert"].nunique() == 1:
        return _ranked(frame, rows, parts, theme)
    below = scope(frame, f"layer {shown}", "words by the expert that they choose most")
    tables = [_best(part, max(6, MOST // len(parts))) for _, part in parts]
    heights = [float(ROW * part["token_id"].nunique()) for part in tables]
    head = "Words and the experts that they choose"
    canvas = Canvas(theme, head, below, heights, bottom=maps.ROOM, left=110)
    experts = int(rows["expert"].max()) + 1
    for row, ((name, _), part) in enumerate(zip(parts, tables, strict=True)):
        canvas.name(canvas.panel(row), name)
        _map(canvas, canvas.panel(row), part, experts, "expert" if row == len(parts) - 1 else "")
    name = "share of the word's occurrences that chose the expert"
    maps.colour_scale(canvas, maps.Scale(0, 1, name, form=".0%"))
    return canvas.figure()


def _best(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """Rows of the words with the largest shares, each with its ``place`` in the map."""
    order = ["share", "occurrences"]
    ranked = rows.sort_values(order, ascending=False, kind="stable")
    first = ranked.drop_duplicates("token_id").head(most)
    placed = first.sort_values(["expert", "share"], ascending=[True, False], kind="stable")
    place = pd.Series(range(len(placed)), index=placed["token_id"])
    found = ranked[ranked["token_id"].isin(place.index)]
    return found.assign(place=found["token_id"].map(place))


def _map(canvas: Canvas, panel: Panel, rows: pd.DataFrame, experts: int, name: str) -> None:
    """Words × experts; an expert that a word never chose has 0."""
    words = rows.drop_duplicates("place").sort_values("place")
    columns = [np.zeros((len(words), experts)) for _ in _VALUES]
    columns[2] += words["occurrences"].to_numpy()[:, None]
    for values, column in zip(columns, _VALUES, strict=True):
        values[rows["place"], rows["expert"]] = rows[column]
    labels = [word(text) for text in words["text"]]
    hover = said(f"<b>%{{text}}</b> and <b>E%{{x}}</b><br>{_SAID}", columns)
    hover["text"] = [[label] * experts for label in labels]
    maps.draw_map(canvas, panel, columns[0], range(len(words)), hover)
    spread = {"range": [-0.5, experts - 0.5], "dtick": ticks(experts, 32), "tick0": 0}
    ranked_axes(canvas, panel, labels, "", "")
    canvas.layout[f"xaxis{panel.axes}"] |= {"showgrid": False, "title": title(name), **spread}


def _ranked(frame: pd.DataFrame, rows: pd.DataFrame, parts: Groups, theme: str | None) -> Figure:
    """Bars of one expert's words."""
    order = ["share", "occurrences"]
    best = rows.sort_values(order, ascending=False, kind="stable").head(MOST)
    best = best.assign(place=range(len(best)))
    first = best.iloc[0]
    below = scope(frame, f"the {len(best)} largest shares of {len(rows):,}")
    head, high = f"Words of expert {first['layer']}/{first['expert']}", float(ROW * len(best))
    several = len(parts) > 1
    canvas = Canvas(theme, head, below, [high], legend=several, left=110)
    panel = canvas.panel(0)
    for number, (name, part) in enumerate(parts):
        mine = best.loc[best.index.intersection(part.index)]
        values = [mine[column].to_numpy() for column in _VALUES]
        places, hover = mine["place"].to_list(), said(_SAID, values)
        draw_bars(canvas, panel, values[0], (name, number), hover, places=places, legend=several)
    labels = [word(text) for text in best["text"]]
    name = "share of the word's occurrences that chose it"
    ranked_axes(canvas, panel, labels, name, ".0%", rangemode="tozero")
    return canvas.figure()
