"""Cuts a text into steps: sentences and lines, in a time that grows with its length alone."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from ringlens.analysis.steps.protected import protected
from ringlens.errors import ConfigError

SHORTEST = 10
"""Characters of a step; shorter pieces belong to a neighbour."""


class Step(NamedTuple):
    """A step: the characters from ``start`` to before ``end``."""

    start: int
    end: int


# Closing quotes, brackets and marks of emphasis belong to the sentence. Repeats are bounded: what
# is longer is no quotation, and an unbounded one would be searched again from each character.
_ENDS = re.compile(
    r"""(?P<latin>[.!?…]{1,40}["'”’»)\]*_`]{0,8})(?=\s|\Z)"""
    r"""|(?P<wide>[。！？｡؟۔।]{1,40}["'”’」』）】]{0,8})"""
    r"""|(?P<line>\n)"""
)
_SPACE = re.compile(r"\s*")
_ITEM = re.compile(r"[ \t>]{0,20}(?:[-*+•][ \t]{1,4})?\(?(?:\d{1,4}|[a-zA-Z]|[ivxIVX]{1,5})[.)]\Z")
_WORD = re.compile(r"[\w.]{1,12}\Z")
_TITLES = {
    *("dr", "mr", "mrs", "ms", "prof", "e.g", "i.e", "eg", "ie", "cf", "vs", "viz", "resp"),
    *("approx", "a.k.a", "w.r.t", "w.l.o.g", "s.t", "i.i.d"),
}
"""Abbreviations that a sentence does not end with."""

_BEFORE_NUMBERS = {
    *("no", "nos", "fig", "figs", "eq", "eqs", "sec", "thm", "def", "prop", "lem", "cor", "ch"),
    *("vol", "p", "pp"),
}
"""Abbreviations if a number follows, words or ends of sentences otherwise."""

_LOOK_BACK = 48
"""Characters before a full stop that say what it is."""


def segment(text: str) -> list[Step]:
    """Cut a text into steps, which tile it: each begins where the one before ends.

    A step is a sentence, or a line that holds none. No step ends inside a formula, a fenced block
    of code, a decimal number, an abbreviation, the number of a list item, or at a factorial's
    exclamation mark. White space belongs to the step before it, and pieces of fewer than
    `SHORTEST` characters to a neighbour. What is left behind the last end is a step too.

    Args:
        text: The text.

    Returns:
        The steps in order; none of an empty text.

    Raises:
        ConfigError: It is no text.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the text to cut is a {type(text).__name__}; give a string.")
    return _merged(text, list(_pieces(text)))


def _pieces(text: str) -> Iterator[Step]:
    """Pieces that tile the text, each with the white space behind it."""
    spans = protected(text)
    starts = [start for start, _ in spans]
    start, at = 0, 0
    while found := _ENDS.search(text, at):
        inside = bisect_right(starts, found.start()) - 1
        if inside >= 0 and spans[inside][1] > found.start():
            at = spans[inside][1]
            continue
        behind = _SPACE.match(text, found.end())
        end = behind.end() if behind is not None else found.end()
        if _is_end(text, found, end) and text[start : found.end()].strip():
            yield Step(start, end)
            start = end
        at = max(end, found.end()) if found.lastgroup != "latin" else found.end()
    if start < len(text):
        yield Step(start, len(text))


def _is_end(text: str, mark: re.Match[str], end: int) -> bool:
    """Whether a mark ends a sentence; ``end`` is where the next begins."""
    if mark.lastgroup != "latin" or end == len(text) or "\n" in text[mark.end() : end]:
        return not _is_item(text, mark)
    after = text[end]
    if mark.group() == ".":
        return not (after.islower() or _is_abbreviated(text, mark, end) or _is_item(text, mark))
    before = text[mark.start() - 1 : mark.start()]
    if mark.group().startswith("!") and (before.isalnum() or before == ")"):
        return after.isupper() or not after.isascii() or after in "\"'“‘*"
    return not after.islower()


def _is_abbreviated(text: str, mark: re.Match[str], end: int) -> bool:
    found = _WORD.search(text[max(0, mark.start() - _LOOK_BACK) : mark.start()])
    word = "" if found is None else found.group().lower()
    return word in _TITLES or (word in _BEFORE_NUMBERS and text[end] in "0123456789(")


def _is_item(text: str, mark: re.Match[str]) -> bool:
    """Whether a full stop or a line's end closes only the number of a list item."""
    if mark.lastgroup != "latin" or not mark.group().startswith("."):
        return False
    line = text.rfind("\n", max(0, mark.start() - _LOOK_BACK), mark.start()) + 1
    if not line and mark.start() > _LOOK_BACK:
        return False
    return _ITEM.match(text, line, mark.start() + 1) is not None


def _merged(text: str, pieces: list[Step]) -> list[Step]:
    """Join pieces that are too short: whole lines to what is before, others to what follows."""
    steps: list[Step] = []
    start: int | None = None
    for piece in pieces:
        begin = piece.start if start is None else start
        start = None
        if len(text[begin : piece.end].strip()) >= SHORTEST:
            steps.append(Step(begin, piece.end))
        elif steps and text[begin : piece.end].endswith("\n"):
            steps[-1] = Step(steps[-1].start, piece.end)
        else:
            start = begin
    if start is not None:
        if steps:
            steps[-1] = Step(steps[-1].start, pieces[-1].end)
        else:
            steps.append(Step(start, pieces[-1].end))
    return steps
