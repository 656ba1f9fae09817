"""An expert's card as text, as HTML, and as one long table.

Words and contexts are texts of strangers: they are quoted, cut and escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from ringlens.display import clean, html_facts, html_table, lines, plural, quoted

if TYPE_CHECKING:
    from ringlens.analysis.experts.expert_card import ExpertCard

_MOST = 8
"""Rows of a part that are shown."""

_BEFORE, _AFTER = 48, 32
"""Characters shown on the two sides of a context."""

Row = tuple[Any, ...]


def short(card: ExpertCard) -> str:
    """Six lines."""
    words = ", ".join(quoted(text, 16) for text in card.tokens["text"].head(6))
    load = "; ".join(f"{phase} {share} (lift {lift})" for phase, share, lift in _load(card))
    return lines(
        _title(card),
        f"load: {load}",
        *_labels(card),
        f"words: {words or '–'}",
        *(f"heaviest: {_flat(row)}" for row in _contexts(card)[:1]),
    )


def full(card: ExpertCard) -> str:
    """The whole card, a part a paragraph."""
    first, *more = _labels(card)
    paragraphs = ["\n".join([_title(card), first, *(f"  {line}" for line in more)])]
    for name, head, rows in _parts(card):
        paragraphs.append("\n".join([name, *_aligned([head, *rows])]))
    return "\n\n".join(paragraphs)


def html(card: ExpertCard) -> str:
    """Tables for a notebook."""
    automatic = {"label": card.label.text, "score": card.label.scored}
    if card.said:
        said = {"label": _said(card), "automatic label": card.label.text}
        automatic = {**said, "score": card.label.scored}
    about = {**automatic, "tokens": card.where}
    tables = [html_table(name, head, rows) for name, head, rows in _parts(card)]
    return html_facts(_title(card), about) + "".join(tables)


def long(card: ExpertCard) -> pd.DataFrame:
    """The card as one table.

    Returns:
        A row per number: ``part`` of the card; ``phase``, None for labels; ``item``, what in
        the part the number is of (an expert, a word, a role, a place, an author, or None);
        ``measure``, its name in that part; ``value``; and ``text``, that of a context or of the
        label.
    """
    items = {
        "load": lambda row: None,
        "causes": lambda row: None,
        "displacements": lambda row: f"{row['event']} {row['other']}",
        "tokens": lambda row: row["text"],
        "roles": lambda row: row["role"],
        "contexts": lambda row: f"trace {row['trace_id']} position {row['pos']}",
    }
    skipped = {"layer", "expert", "other", "trace_id", "pos", "token_id"}
    rows: list[Row] = []
    for part, item in items.items():
        frame = getattr(card, part)
        measures = [c for c in frame.select_dtypes("number").columns if c not in skipped]
        for row in frame.to_dict("records"):
            text = row["before"] + row["text"] + row["after"] if part == "contexts" else None
            rows += [(part, row["phase"], item(row), name, row[name], text) for name in measures]
    label, scores = card.label, ("precision", "recall", "f1", "accuracy")
    said = label.text if label.score else f"{label.text}; {label.scored}"
    for part, score in (("label", label.score), ("label, where it was made", label.trained)):
        found = {name: None if score is None else getattr(score, name) for name in scores}
        rows += [(part, None, None, name, value, said) for name, value in found.items()]
    rows += [("said", None, each.author, None, None, each.label) for each in card.said]
    columns = ["part", "phase", "item", "measure", "value", "text"]
    frame = pd.DataFrame(rows, columns=columns).astype({"value": "float64"})
    return frame.assign(layer=card.layer, expert=card.expert)[["layer", "expert", *columns]]


def _labels(card: ExpertCard) -> list[str]:
    """Lines of the label and its score; what people say comes first."""
    if not card.said:
        return [f"label: {card.label.text}", card.label.scored]
    automatic = f"automatic label: {card.label.text}"
    return [f"label: {_said(card)}", automatic, card.label.scored]


def _said(card: ExpertCard) -> str:
    return "; ".join(f"{clean(each.label, 200)} ({clean(each.by, 240)})" for each in card.said)


def _title(card: ExpertCard) -> str:
    about = "" if card.where == "true" else f" where {clean(card.where, 120)}"
    return f"Expert {card.layer}/{card.expert}: {plural(card.traces, 'trace')}{about}"


def _parts(card: ExpertCard) -> Iterable[tuple[str, list[str], list[Row]]]:
    """Each part with rows: its name, the heads of its columns, and its rows as text."""
    parts: list[tuple[str, list[str], list[Row]]] = [
        (
            "Load (share of tokens that chose it; lift over the baseline)",
            ["phase", "share", "lift"],
            _load(card),
        ),
        (
            "Why it was chosen (shares of its choices; quantiles of its lead, in units of score)",
            ["phase", "choices", "by bias", "stood in", "kept out", "lead 5%", "50%", "95%"],
            [_cause(row) for row in card.causes.to_dict("records") if row["n"] or row["kept_out"]],
        ),
        (
            "Whom the group limit set in its place, and in whose place it stood",
            ["phase", "it", "expert", "times"],
            [
                (row["phase"], row["event"], f"{card.layer}/{row['other']}", f"{row['n']:,}")
                for row in card.displacements.head(_MOST).to_dict("records")
            ],
        ),
        (
            "Words (share of a word's occurrences that chose it)",
            ["phase", "word", "share", "of", "lift"],
            [
                (
                    *(row["phase"], quoted(row["text"], 24), _percent(row["share"])),
                    *(f"{row['occurrences']:,}", f"{row['lift']:.2f}"),
                )
                for row in card.tokens.head(_MOST).to_dict("records")
            ],
        ),
        (
            "Step roles (share of their tokens that chose it)",
            ["phase", "role", "share", "of", "lift"],
            [
                (
                    *(row["phase"], quoted(row["role"], 40)[1:-1], _percent(row["share"])),
                    *(f"{row['tokens']:,}", f"{row['lift']:.2f}"),
                )
                for row in card.roles.head(2 * _MOST).to_dict("records")
            ],
        ),
        (
            "Contexts that weigh most",
            ["trace", "position", "phase", "weight", "before", "token", "after"],
            _contexts(card),
        ),
    ]
    return [part for part in parts if part[2]]


def _load(card: ExpertCard) -> list[Row]:
    return [
        (row["phase"], _percent(row["share"]), f"{row['lift']:.2f}")
        for row in card.load.to_dict("records")
    ]


def _cause(row: dict[str, Any]) -> Row:
    leads = (_three(row[f"margin_{q}"]) for q in ("05", "50", "95"))
    shares = (_percent(row[name]) for name in ("bias_flips", "stand_ins"))
    return (row["phase"], f"{row['n']:,}", *shares, f"{row['kept_out']:,}", *leads)


def _contexts(card: ExpertCard) -> list[Row]:
    return [
        (
            *(str(row["trace_id"]), str(row["pos"]), row["phase"], _three(row["weight"])),
            quoted(row["before"][-_BEFORE:], _BEFORE)[1:-1],
            quoted(row["text"], 24),
            quoted(row["after"][:_AFTER], _AFTER)[1:-1],
        )
        for row in card.contexts.to_dict("records")
    ]


def _flat(row: Row) -> str:
    trace, pos, phase, weight, before, text, after = row
    place = f"weight {weight}, {phase}, trace {trace}, position {pos}"
    return f"{before}[{text[1:-1]}]{after} ({place})"


def _three(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.1%}"


def _aligned(rows: list[Row | list[str]]) -> list[str]:
    """Columns under each other."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{cell:{size}}" for cell, size in zip(row, wide, strict=True)).rstrip()
        for row in rows
    ]
