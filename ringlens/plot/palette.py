"""Colours that figures and the page share; the style sheet's custom properties hold the same."""

from __future__ import annotations

from dataclasses import dataclass

FONT = (
    'Inter, -apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", '
    '"Noto Sans", "Liberation Sans", Arial, sans-serif'
)


@dataclass(frozen=True)
class Palette:
    """One colour scheme: surfaces, text, and the scales of heatmaps, low to high."""

    surface: str
    raised: str
    line: str
    text: str
    text_2: str
    text_3: str
    accent: str
    bar: str
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]
    warm: tuple[str, ...]


DARK = Palette(
    surface="#111317",
    raised="#1b1e24",
    line="rgba(255,255,255,0.08)",
    text="#e7e9ed",
    text_2="#9ba2ae",
    text_3="#7f8693",
    accent="#8ea6ff",
    bar="#4a5568",
    sequential=("#15181d", "#172a3f", "#184567", "#1d6a8f", "#3196a8", "#6cc3b0", "#c5ecc0"),
    diverging=("#ffb35c", "#c26a2c", "#5c3520", "#181b20", "#1f3c63", "#3a7cc4", "#8fc7ff"),
    warm=("#15181d", "#33221a", "#5e3420", "#94502a", "#cc7a38", "#f0ad5e", "#ffe0a3"),
)
LIGHT = Palette(
    surface="#ffffff",
    raised="#ffffff",
    line="rgba(17,24,39,0.09)",
    text="#171a20",
    text_2="#5a6270",
    text_3="#6c7380",
    accent="#3f5bd8",
    bar="#b8c0cc",
    sequential=("#f4f6f8", "#dcebf0", "#b3d9de", "#7abec9", "#3f98b0", "#1f6b90", "#123f66"),
    diverging=("#a04a0c", "#d98236", "#f3cfa6", "#f5f6f8", "#b5d4f2", "#4a90d6", "#1a4f96"),
    warm=("#f6f5f3", "#f7e6d0", "#f4cd9f", "#eaaa68", "#d27f37", "#a85718", "#74370b"),
)


PHASE_HUES = {"prompt": 250, "think": 285, "answer": 160}

START_HUE = 25
"""Hue of the first expert."""

GROUP_SPREAD = 0.78
"""Part of a group's range of hues that its experts take; the rest sets it off from the next."""


def palette(theme: str) -> Palette:
    """Return the palette of 'dark' or 'light'."""
    return LIGHT if theme == "light" else DARK


def expert_colour(expert: int, experts: int, groups: int) -> str:
    """Return the colour of an expert, legible on both schemes; hue as in shared/colours.js."""
    size = experts / groups
    group, inside = expert // size, expert % size / size
    hue = (START_HUE + 360 * (group + GROUP_SPREAD * inside) / groups) % 360
    return f"oklch(0.64 0.13 {hue:.1f})"
