"""How objects show themselves in a console and a notebook: few lines, small tables.

Stores hold text of strangers, so whatever is shown is escaped: control characters and marks of
writing direction in a console, HTML in a notebook. Colours are the notebook's, dark or light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

MOST = 80
"""Characters of a value that are shown."""

_SHORT = 26
"""Characters that stay on one line of a table."""

_TABLE = "border-collapse:collapse;font-size:13px;margin:4px 0;color:inherit;background:none"
_CELL = (
    "padding:2px 12px 2px 0;text-align:left;vertical-align:top;background:none;color:inherit;"
    "border:0;border-bottom:1px solid rgba(127,127,127,0.3);overflow-wrap:anywhere;"
    "white-space:pre-wrap"
)
_HEAD = f"{_CELL};font-weight:600;opacity:0.75;white-space:nowrap"


def clean(value: object, most: int = MOST) -> str:
    """A value on one line: cut, with everything that a terminal would obey written out.

    Floats have six digits.
    """
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    cut = text[:most] + "…" if len(text) > most else text
    return cut if cut.isprintable() else repr(cut)[1:-1]


def quoted(text: str, most: int = MOST) -> str:
    """A text in quotes, on one line, cut."""
    return repr(text[:most] + "…" if len(text) > most else text)


def plural(n: int, noun: str) -> str:
    """Count a noun: '1 trace', '2 traces'."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def spans(numbers: Iterable[int]) -> str:
    """Write ascending whole numbers as ranges: '0–3, 5'."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{a}–{b}" if a < b else str(a) for a, b in found)


def lines(title: str, *more: str, most: int = 6) -> str:
    """A title and lines below it, so many at most."""
    left = len(more) - (most - 1)
    kept = more if left <= 0 else (*more[: most - 2], f"… and {left + 1} more")
    return "\n  ".join([title, *kept])


def html_facts(title: str, facts: Mapping[str, object], most: int = 400) -> str:
    """A title over names and their values."""
    rows = "".join(
        f'<tr><th style="{_HEAD}">{_text(name)}</th>{_cell(value, most)}</tr>'
        for name, value in facts.items()
    )
    return _titled(title, rows)


def html_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
) -> str:
    """A title over a table, and a note below."""
    names = "".join(f'<th style="{_HEAD}">{_text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return _titled(title, f"<tr>{names}</tr>{body}", note)


def _titled(title: str, rows: str, note: str = "") -> str:
    below = f'<div style="opacity:0.75;font-size:12px">{_text(note)}</div>' if note else ""
    return (
        f'<div><div style="font-weight:600">{_text(title)}</div>'
        f'<table style="{_TABLE}">{rows}</table>{below}</div>'
    )


def _cell(value: object, most: int = MOST) -> str:
    text = _text(value, most)
    wrap = ";white-space:nowrap" if len(text) <= _SHORT else ""
    return f'<td dir="auto" style="{_CELL}{wrap}">{text}</td>'


def _text(value: object, most: int = 400) -> str:
    return escape(clean("–" if value is None else value, most))
