"""Quotes in a text: whether a mark in it counts, or is only talked about.

A place comes with the part of the text, ``start`` to ``end``, in which to look for quotes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from functools import cached_property

QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」"}
# A fence in a line of its own; marks, which stand in angle brackets, may share that line.
FENCE = re.compile(r"(?:^|(?<=>))[ \t]*(`{3,}|~{3,})([^`<\n]*)(?:$|(?=<))", re.MULTILINE)
TICKS = re.compile(r"`+")
RUN = re.compile(r"[ \t]*(?:`+|~+)")
BREAK = re.compile(r"\n")
INDENT = 200
"""Most blanks around a mark that is alone on its line."""


class Quoting:
    """Looks for quotes around places of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._blocks: dict[tuple[int, int], tuple[list[int], list[int]]] = {}

    def is_quoted(self, at: int, behind: int, start: int, end: int) -> bool:
        """Whether a mark stands between quotation marks or in a code span."""
        text = self._text
        before, after = text[max(at - 1, start) : at], text[behind : min(behind + 1, end)]
        if before and QUOTES.get(before) == after:
            # A straight quotation mark may also close a quote: it opens one at the start of a word.
            lead = text[max(at - 2, start) : at - 1]
            if before != after or not lead or lead in " \t\n([{=:":
                return True
        line, line_end = self._line(at, behind, start, end)
        closers = self._fences(start, end)[1]
        block = bisect_left(closers, at) - 1
        if block >= 0 and closers[block] >= line and (fence := RUN.match(text, closers[block])):
            line = fence.end()  # the line continues after the block, whose fence opens no code span
        cuts = [bisect_left(self._ticks, place) for place in (line, at, behind, line_end)]
        return (cuts[1] - cuts[0]) % 2 == 1 and cuts[3] > cuts[2]  # opened before, closed after

    def is_fenced(self, at: int, start: int, end: int) -> bool:
        """Whether a place is in a fenced block between ``start`` and ``end``."""
        opened, closed = self._fences(start, end)
        block = bisect_right(opened, at) - 1
        return block >= 0 and at < closed[block]

    def _fences(self, start: int, end: int) -> tuple[list[int], list[int]]:
        """Where the fenced blocks between ``start`` and ``end`` begin, and where they end."""
        if (start, end) not in self._blocks:
            self._blocks[start, end] = _fenced_blocks(self._text, start, end)
        return self._blocks[start, end]

    def is_alone(self, at: int, behind: int, start: int, end: int) -> bool:
        """Whether a mark is alone on its line."""
        line, line_end = self._line(at, behind, start, end)
        if at - line > INDENT or line_end - behind > INDENT:
            return False
        return not self._text[line:at].strip() and not self._text[behind:line_end].strip()

    def _line(self, at: int, behind: int, start: int, end: int) -> tuple[int, int]:
        """Where the line of a mark begins and ends."""
        before, after = bisect_left(self._breaks, at), bisect_left(self._breaks, behind)
        line = self._breaks[before - 1] + 1 if before else 0
        line_end = self._breaks[after] if after < len(self._breaks) else end
        return max(line, start), min(line_end, end)

    # Kept as sorted lists: a long line may hold many marks, and each would search it again.
    @cached_property
    def _breaks(self) -> list[int]:
        return [match.start() for match in BREAK.finditer(self._text)]

    @cached_property
    def _ticks(self) -> list[int]:
        return [match.start() for match in TICKS.finditer(self._text)]


def _fenced_blocks(text: str, start: int, end: int) -> tuple[list[int], list[int]]:
    """Where the fenced blocks of a part of a text begin and end."""
    opened: list[int] = []
    closed: list[int] = []
    waiting: re.Match[str] | None = None
    for fence in FENCE.finditer(text[start:end]):  # the slice makes ^ match where the part begins
        if waiting is not None and not fence[2].strip() and fence[1][0] == waiting[1][0]:
            opened.append(start + waiting.start())
            closed.append(start + fence.start())
            waiting = None
        else:
            waiting = fence
    return opened, closed
