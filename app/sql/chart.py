"""Draws an answer as a chart of x, y, colour and kind: table in, figure out."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ringlens.app.sql import cells
from ringlens.plot.palette import FONT, Palette, palette

KINDS = {"line": "Line", "bar": "Bars", "scatter": "Points", "histogram": "Histogram"}
SERIES = 12
"""Most lines of a chart; the largest are drawn, the rest are left out and counted."""

_HUES = (250, 45, 155, 320, 95, 200, 15, 285, 125, 345, 70, 180)

Figure = dict[str, Any]


def figure(table: pa.Table, kind: str, x: str, y: str, by: str, theme: str) -> Figure:
    """Draw the chart of an answer.

    Args:
        table: The answer's columns as `cells.drawable` gives them.
        kind: Key of `KINDS`.
        x: Column of the horizontal axis.
        y: Column of the vertical axis; a histogram counts instead.
        by: Column whose values become separate lines; "" for one line.
        theme: 'dark' or 'light'.
    """
    colours = palette(theme)
    parts, left_out = _parts(table, by)
    many = len(parts) > 1
    lines = [
        _line(part, kind, x, y, name if many else "", _colour(i, colours, many))
        for i, (name, part) in enumerate(parts)
    ]
    title = f"{by}, {left_out} more left out" if left_out else by
    return {"data": lines, "layout": _layout(kind, x, y, title if many else "", colours)}


def _parts(table: pa.Table, by: str) -> tuple[list[tuple[str, pa.Table]], int]:
    """Split rows by a column's value, largest first; and count the values left out."""
    if not by:
        return [("", table)], 0
    field = table.schema.field(by)
    rows: dict[Any, list[int]] = {}
    for row, value in enumerate(table[by].to_pylist()):
        rows.setdefault("null" if value is None else cells.cell(value, field), []).append(row)
    largest = sorted(rows, key=lambda value: -len(rows[value]))[:SERIES]
    largest.sort(key=lambda value: (isinstance(value, str), value))
    return [(str(value), table.take(rows[value])) for value in largest], len(rows) - len(largest)


def _line(table: pa.Table, kind: str, x: str, y: str, name: str, colour: str) -> Figure:
    line: Figure = {"name": name, "x": _values(table, x), "showlegend": bool(name)}
    if kind == "histogram":
        return {**line, "type": "histogram", "marker": {"color": colour}}
    line["y"] = _values(table, y)
    if kind == "bar":
        return {**line, "type": "bar", "marker": {"color": colour}}
    mode = "markers" if kind == "scatter" else "lines"
    if kind == "line" and table.num_rows <= 60:
        mode = "lines+markers"
    marker = {"color": colour, "size": 6, "opacity": 0.8}
    return {
        **line,
        "type": "scatter",
        "mode": mode,
        "line": {"color": colour, "width": 1.8},
        "marker": marker,
    }


def _values(table: pa.Table, name: str) -> list[Any]:
    """Return a column's values: other than numbers as text, not finite ones as gaps."""
    field = table.schema.field(name)
    values = table[name].to_pylist()
    if cells.is_number(field):
        found = [None if value is None else float(value) for value in values]
        return [None if v is None or v != v or abs(v) == float("inf") else v for v in found]
    return [cells.cell(value, field) for value in values]


def _colour(index: int, colours: Palette, many: bool) -> str:
    if not many:
        return colours.accent
    return f"oklch(0.68 0.14 {_HUES[index % len(_HUES)]})"


def _layout(kind: str, x: str, y: str, title: str, colours: Palette) -> Figure:
    axis = {
        "gridcolor": colours.line,
        "zerolinecolor": colours.line,
        "linecolor": colours.line,
        "tickfont": {"size": 11, "color": colours.text_3},
        "automargin": True,
    }

    def named(text: str) -> Figure:
        return {
            **axis,
            "title": {"text": text, "standoff": 12, "font": {"size": 12, "color": colours.text_2}},
        }

    return {
        "xaxis": named(x),
        "yaxis": named("rows" if kind == "histogram" else y),
        "barmode": "stack" if kind == "histogram" else "group",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": colours.text_2},
        "margin": {"l": 56, "r": 20, "t": 16, "b": 44},
        "hoverlabel": {
            "bgcolor": colours.raised,
            "bordercolor": colours.line,
            "font": {"family": FONT, "size": 12, "color": colours.text},
        },
        "legend": {
            "title": {"text": title, "font": {"size": 11.5}},
            "font": {"size": 11.5, "color": colours.text_2},
        },
        "uirevision": f"{kind}{x}{y}{title}",
    }
