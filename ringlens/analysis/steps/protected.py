"""Parts of a text inside which no sentence ends: formulas and code.

Every search looks at each character a fixed number of times, whatever the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

# Escaped marks come first, so that they open and close nothing.
_MARKS = re.compile(
    r"\\\\|\\\$|(?P<fence>```)|(?P<tilde>~~~)|(?P<display>\$\$)|(?P<inline>\$)"
    r"|(?P<round>\\[()])|(?P<square>\\[\[\]])|(?P<blank>\n[ \t\r]*\n)"
)
_CLOSING = {"round": "\\)", "square": "\\]"}
_OPENING = {"round": "\\(", "square": "\\["}


def protected(text: str) -> list[tuple[int, int]]:
    r"""Find formulas and fenced code, as spans in order that do not overlap.

    Formulas are ``$…$``, ``$$…$$``, ``\(…\)`` and ``\[…\]``; ``$…$`` and ``\(…\)`` end within
    their paragraph, and a dollar sign before a space or after one, or before a digit, closes or
    opens nothing, as in pandoc. What opens and is never closed protects nothing.
    """
    marks = _Marks(text)
    spans: list[tuple[int, int]] = []
    last = 0
    for kind, start in marks.found:
        if start < last:
            continue
        end = marks.closing(kind, start)
        if end is not None:
            spans.append((start, end))
            last = end
    return spans


class _Marks:
    """Marks of a text, and where each could be closed."""

    def __init__(self, text: str) -> None:
        self.found: list[tuple[str, int]] = []
        self._text = text
        self._closers: dict[str, list[int]] = {
            kind: [] for kind in ("fence", "tilde", "display", "inline", "round", "square")
        }
        self._blanks: list[int] = []
        for kind, start in self._scanned():
            if kind == "blank":
                self._blanks.append(start)
                continue
            if self._opens(kind, start):
                self.found.append((kind, start))
            if self._closes(kind, start):
                self._closers[kind].append(start)

    def closing(self, kind: str, start: int) -> int | None:
        """End of what is opened at ``start``; None if it is never closed."""
        closers = self._closers[kind]
        width = {"fence": 3, "tilde": 3, "inline": 1}.get(kind, 2)
        at = bisect_left(closers, start + width)
        if at == len(closers):
            return None
        if kind in ("inline", "round"):
            blank = bisect_left(self._blanks, start)
            if blank < len(self._blanks) and self._blanks[blank] < closers[at]:
                return None
        return closers[at] + width

    def _scanned(self) -> Iterator[tuple[str, int]]:
        for mark in _MARKS.finditer(self._text):
            if mark.lastgroup is not None:
                yield mark.lastgroup, mark.start()

    def _opens(self, kind: str, start: int) -> bool:
        if kind == "inline":
            after = self._text[start + 1 : start + 2]
            return bool(after) and not after.isspace()
        return kind not in _OPENING or self._text.startswith(_OPENING[kind], start)

    def _closes(self, kind: str, start: int) -> bool:
        if kind == "inline":
            before, after = self._text[start - 1 : start], self._text[start + 1 : start + 2]
            return bool(before) and not before.isspace() and not after.isdigit()
        return kind not in _CLOSING or self._text.startswith(_CLOSING[kind], start)
