"""A figure of several panels: where they stand, their names, axes and legend.

Heights are pixels, as the map of a small model and of a large one need different ones; widths are
fractions of what the page gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ringlens.plot.figure import Figure
from ringlens.plot.forms.series import Mark, mark
from ringlens.plot.theme import colours_of, drawn, frame, safe, titled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

_TOP, _LEGEND, _BOTTOM, _GAP = 80, 26, 56, 64
"""Pixels above the panels, of a legend, below them, and between two rows."""

_BETWEEN = 0.085
"""Part of the width between two columns."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        axes: What plotly's names of its axes end with.
        x: Fractions of the width that it takes.
        y: Fractions of the height.
        high: Pixels of its height.
    """

    axes: str
    x: tuple[float, float]
    y: tuple[float, float]
    high: float


class Canvas:
    """A figure that is drawn panel by panel.

    Args:
        theme: "light" or "dark"; None follows plotly's default template.
        head: Title.
        below: What the figure is about, below the title.
        heights: Pixels of each row of panels.
        columns: Panels of a row.
        legend: Whether the names of lines stand above the panels.
        bottom: Pixels below the panels, beyond those of the axes.
        left: Pixels for the labels of the first column.
        right: Pixels on the right of the last column.
        between: Part of the width between two columns.
    """

    def __init__(
        self,
        theme: str | None,
        head: str,
        below: str,
        heights: Sequence[float],
        columns: int = 1,
        *,
        legend: bool = False,
        bottom: int = 0,
        left: int = 52,
        right: int = 18,
        between: float = _BETWEEN,
    ) -> None:
        self.theme, self.colours = colours_of(theme)
        top, low = _TOP + (_LEGEND if legend else 0), _BOTTOM + bottom
        self.inner = sum(heights) + _GAP * (len(heights) - 1)
        self.data: list[Figure] = []
        self.layout = frame(
            self.colours, titled(head, below, self.colours), round(self.inner + top + low)
        )
        self.layout["margin"] = {"l": left, "r": right, "t": top, "b": low}
        self.layout["annotations"], self.layout["shapes"] = [], []
        if legend:
            self._legend(top)
        wide = (1 - between * (columns - 1)) / columns
        self._panels = [
            [self._panel(row, column, heights, columns, wide, between) for column in range(columns)]
            for row in range(len(heights))
        ]

    def _panel(
        self, row: int, column: int, heights: Sequence[float], columns: int, wide: float, gap: float
    ) -> Panel:
        above = sum(heights[:row]) + _GAP * row
        top, low = 1 - above / self.inner, 1 - (above + heights[row]) / self.inner
        left, number = column * (wide + gap), row * columns + column
        return Panel(
            "" if number == 0 else str(number + 1),
            (left, min(1.0, left + wide)),
            (max(0.0, low), top),
            heights[row],
        )

    def _legend(self, top: int) -> None:
        self.layout["showlegend"] = True
        self.layout["legend"] = {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + (top - 50) / self.inner,
            "yanchor": "top",
            "font": {"size": 12, "color": self.colours.text},
            "bgcolor": "rgba(0,0,0,0)",
        }

    def panel(self, row: int, column: int = 0) -> Panel:
        """The panel of a row and a column."""
        return self._panels[row][column]

    def mark(self, name: str, number: int) -> Mark:
        """Colour, dash and symbol of a series."""
        return mark(name, number, self.theme)

    def name(self, panel: Panel, text: str) -> None:
        """Write a panel's name above it."""
        self.layout["annotations"].append(
            {
                "text": safe(text),
                "xref": "paper",
                "x": panel.x[0],
                "xanchor": "left",
                "yref": "paper",
                "y": panel.y[1],
                "yanchor": "bottom",
                "yshift": 4,
                "showarrow": False,
                "font": {"size": 12, "color": self.colours.text},
            }
        )

    def axes(self, panel: Panel, x: Figure, y: Figure) -> None:
        """Set the axes of a panel; what is given comes on top of the quiet ones."""
        quiet: dict[str, Any] = {
            "zeroline": False,
            "ticks": "",
            "gridcolor": self.colours.line,
            "tickfont": {"size": 11, "color": self.colours.text_2},
        }
        self.layout[f"xaxis{panel.axes}"] = {
            **quiet,
            "domain": panel.x,
            "anchor": f"y{panel.axes}",
            **x,
        }
        self.layout[f"yaxis{panel.axes}"] = {
            **quiet,
            "domain": panel.y,
            "anchor": f"x{panel.axes}",
            **y,
        }

    def add(self, panel: Panel, trace: Figure) -> None:
        """Draw a trace in a panel."""
        self.data.append(trace | {"xaxis": f"x{panel.axes}", "yaxis": f"y{panel.axes}"})

    def line(self, panel: Panel, **place: Any) -> None:
        """Draw a thin dotted line across a panel, at x or at y."""
        across = {"x0": 0, "x1": 1, "xref": f"x{panel.axes} domain", "yref": f"y{panel.axes}"}
        along = {"y0": 0, "y1": 1, "yref": f"y{panel.axes} domain", "xref": f"x{panel.axes}"}
        ends = {f"{axis}{end}": value for axis, value in place.items() for end in (0, 1)}
        dotted = {"color": self.colours.text_3, "width": 1, "dash": "dot"}
        shape = (across if "y" in place else along) | ends
        self.layout["shapes"].append({"type": "line", "line": dotted, **shape})

    def figure(self) -> PlotlyFigure:
        """The figure as an object of plotly."""
        return drawn({"data": self.data, "layout": self.layout})


def title(text: str) -> Figure:
    """Title of an axis."""
    return {"text": text, "standoff": 6, "font": {"size": 11}}
