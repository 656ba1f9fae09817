"""The card of one expert as a figure: load, causes, words, step roles or displacements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.experts.expert_card import ExpertCard
from ringlens.config import refuse_unknown
from ringlens.display import plural
from ringlens.errors import ConfigError
from ringlens.plot.forms.bars import draw_bars, ranked_axes, word
from ringlens.plot.forms.canvas import Canvas, Panel
from ringlens.plot.forms.hover import said
from ringlens.plot.forms.table import groups
from ringlens.plot.theme import safe

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WORDS, _OTHERS = 12, 10
"""Most words, and most roles or displacements, that are drawn."""

_LABEL = 46
"""Characters of the label that are shown."""

_LOW, _HIGH = 110, 280


@refuse_unknown
def expert_card(card: ExpertCard, *, theme: str | None = None) -> Figure:
    """Draw the card of an expert.

    Args:
        card: What `ringlens.analysis.expert_card` returns.
        theme: "light" or "dark"; None follows plotly's default template.

    Returns:
        A figure of four panels: its load by phase beside the baseline; the shares of its choices
        that the bias and the group limit decide; its words; and its step roles, or, where no
        steps are recorded, the experts that it stands in for and that replace it. The title gives
        its label and the score of that.

    Raises:
        ConfigError: It is no card.
    """
    if not isinstance(card, ExpertCard):
        raise ConfigError(f"{type(card).__name__} is no card; give what `expert_card` returns.")
    head = f"Expert {card.layer}/{card.expert} · {plural(card.traces, 'trace')}"
    score = card.label.score
    scored = (
        card.label.scored
        if score is None
        else f"held out: F1 {score.f1:.2f}, accuracy {score.accuracy:.2f}; chance 0.67, 0.50"
    )
    label = card.label.text
    if card.said:
        label = f"{card.said[0].label} (says {card.said[0].author}); automatic: {label}"
    below = f"{label[:_LABEL] + '…' if len(label) > _LABEL else label} · {scored}"
    canvas = Canvas(theme, head, below, [_LOW, _HIGH], 2, legend=True, left=96, between=0.2)
    _load(canvas, canvas.panel(0), card.load)
    _causes(canvas, canvas.panel(0, 1), card.causes)
    _words(canvas, canvas.panel(1), card.tokens.head(_WORDS))
    if len(card.roles):
        _roles(canvas, canvas.panel(1, 1), card.roles.nlargest(_OTHERS, "lift"))
    else:
        _displacements(canvas, canvas.panel(1, 1), card.displacements.head(_OTHERS))
    return canvas.figure()


def _load(canvas: Canvas, panel: Panel, load: pd.DataFrame) -> None:
    canvas.name(panel, "share of tokens that chose it; dotted: baseline")
    parts = groups(load, "phase")
    template = "{0:.2%} of tokens chose it ({1:,} of {2:,})<br>lift {3:.2f} over {4:.2%}"
    for place, (name, rows) in enumerate(parts):
        values = [rows[c].to_numpy() for c in ("share", "n", "tokens", "lift", "baseline")]
        hover = said(template, values)
        draw_bars(canvas, panel, values[0], (name, place), hover, places=[place], legend=True)
    ranked_axes(canvas, panel, [safe(name) for name, _ in parts], "", ".0%", rangemode="tozero")
    for base in load["baseline"].unique():
        canvas.line(panel, x=float(base))


def _causes(canvas: Canvas, panel: Panel, causes: pd.DataFrame) -> None:
    canvas.name(panel, "its choices that bias and group limit decide")
    known = causes[causes["n"] > 0]
    labels: list[str] = []
    for number, (name, rows) in enumerate(groups(known, "phase") if len(known) else []):
        for why, column in (("bias", "bias_flips"), ("group", "stand_ins")):
            hover = said("{0:.1%} of its {1:,} choices", [rows[column], rows["n"]])
            series, places = (name, number), [len(labels)]
            draw_bars(canvas, panel, rows[column].to_numpy(), series, hover, places=places)
            labels.append(f"{name}: {why}")
    ranked_axes(canvas, panel, list(map(safe, labels)), "", ".0%", rangemode="tozero")


def _words(canvas: Canvas, panel: Panel, tokens: pd.DataFrame) -> None:
    canvas.name(panel, "words, by the share that chose it")
    template = "{0:.1%} of its occurrences ({1:,} of {2:,})<br>lift {3:.2f}"
    _ranked(canvas, panel, tokens, ["share", "n", "occurrences", "lift"], template)
    labels = [word(text, 14) for text in tokens["text"]]
    ranked_axes(canvas, panel, labels, "", ".0%", rangemode="tozero")


def _roles(canvas: Canvas, panel: Panel, roles: pd.DataFrame) -> None:
    canvas.name(panel, "step roles, by the share that chose it")
    template = "{0:.1%} of their tokens ({1:,} of {2:,})<br>lift {3:.2f}"
    _ranked(canvas, panel, roles, ["share", "n", "tokens", "lift"], template)
    labels = [safe(role.replace("_", " "), 24) for role in roles["role"]]
    ranked_axes(canvas, panel, labels, "", ".0%", rangemode="tozero")


def _displacements(canvas: Canvas, panel: Panel, pairs: pd.DataFrame) -> None:
    canvas.name(panel, "stands in for, is replaced by: times")
    _ranked(canvas, panel, pairs, ["n"], "{0:,} times, by the group limit")
    short = {"stands in for": "for", "replaced by": "by"}
    labels = [f"{short[row.event]} E{row.other}" for row in pairs.itertuples()]
    ranked_axes(canvas, panel, labels, "", "", rangemode="tozero")


def _ranked(
    canvas: Canvas, panel: Panel, rows: pd.DataFrame, columns: list[str], template: str
) -> None:
    """Bars of rows in their order, in the colours of their phases; phases are numbered as above."""
    placed = rows.assign(place=range(len(rows)))
    for number, (name, part) in enumerate(groups(placed, "phase") if len(rows) else []):
        values = [part[c].to_numpy() for c in columns]
        places = part["place"].to_list()
        draw_bars(canvas, panel, values[0], (name, number), said(template, values), places=places)
