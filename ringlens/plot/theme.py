"""What figures of a notebook share: the scheme, the colours of phases, text that is no markup."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ringlens.config import known_only
from ringlens.plot.figure import Figure
from ringlens.plot.palette import FONT, Palette, palette

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

THEMES = ("light", "dark")

PHASE_COLOURS = {
    "dark": {"prompt": "#679dd4", "think": "#9792ec", "answer": "#5dc291"},
    "light": {"prompt": "#3c7ebe", "think": "#6b5fca", "answer": "#008b59"},
}
"""The phases' colours of the dashboard's style sheet, as plotly reads them."""


_ABOVE = 18
"""Pixels above a title."""


def scheme(theme: str | None) -> str:
    """'light' or 'dark'; of None that of plotly's default template (``plotly.io.templates``).

    Raises:
        ConfigError: There is no such scheme.
    """
    if theme is None:
        import plotly.io as pio

        return "dark" if "dark" in str(pio.templates.default) else "light"
    known_only([theme], THEMES, "theme")
    return theme


def drawn(figure: Figure) -> PlotlyFigure:
    """A figure as an object of plotly, which notebooks show."""
    import plotly.graph_objects as go

    return go.Figure(figure)


def frame(colours: Palette, title: str, height: int) -> dict[str, Any]:
    """Layout of a figure that stands alone: a title, its own background."""
    return {
        "height": height,
        "paper_bgcolor": colours.surface,
        "plot_bgcolor": colours.surface,
        "font": {"family": FONT, "size": 11, "color": colours.text_2},
        "hoverlabel": {
            "bgcolor": colours.raised,
            "bordercolor": colours.line,
            "align": "left",
            "font": {"family": FONT, "size": 12, "color": colours.text},
        },
        "showlegend": False,
        "title": {
            "text": title,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1 - _ABOVE / height,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 14, "color": colours.text},
        },
    }


def titled(head: str, below: str, colours: Palette) -> str:
    """Text of a title of two lines; both are escaped, as plotly reads markup."""
    small = f'<span style="font-size:11px;color:{colours.text_2}">{safe(below, 110)}</span>'
    return f"<b>{safe(head, 80)}</b><br>{small}"


def safe(text: str, most: int = 200) -> str:
    """A text that plotly shows as it is, cut; halves of surrogate pairs are written out."""
    cut = text[:most] + "…" if len(text) > most else text
    # Plotly shows &quot; as it stands; a text is never put into an attribute.
    return escape(cut.encode("utf-8", "backslashreplace").decode(), quote=False)


def colours_of(theme: str | None) -> tuple[str, Palette]:
    """The scheme and its colours."""
    found = scheme(theme)
    return found, palette(found)
