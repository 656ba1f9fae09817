"""Colours, dashes and symbols of series, so that they are told apart without colour as well."""

from __future__ import annotations

from dataclasses import dataclass

from ringlens.plot.theme import PHASE_COLOURS

SERIES = {
    "light": ("#0072b2", "#d55e00", "#008f6b", "#b0508f", "#8a6d00", "#5a6270"),
    "dark": ("#56b4e9", "#f0943d", "#3ecf9f", "#e59ac4", "#e8d44d", "#aab2c0"),
}
"""Colours after Okabe and Ito, which people with any colour vision tell apart, dark enough for a
light page and light enough for a dark one."""

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Mark:
    """How a series looks."""

    colour: str
    symbol: str
    dash: str


def mark(name: str, number: int, theme: str) -> Mark:
    """Look of a series: phases have their colours everywhere."""
    place = number % len(_SYMBOLS)
    colour = PHASE_COLOURS[theme].get(name, SERIES[theme][place])
    return Mark(colour, _SYMBOLS[place], _DASHES[place])
