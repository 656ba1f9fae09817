"""What is true of a step beside its words: its shape, its place, and what was said before it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

_RECENT = 4
"""Steps whose numbers count as just said."""

_SHARED = 0.6
"""Part of a step's words that is in the prompt if the step restates it."""

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_EQUATION = re.compile(
    r"\d[\d,.]{0,20}\s?[-+*/×·^÷]\s?\d[\d,.]{0,20}\s?=\s?-?(?P<result>\d(?:[\d,.]{0,20}\d)?)"
)
_CONCLUDES = re.compile(
    r"(?:so|therefore|thus|hence|altogether|in (?:all|total|summary|conclusion)"
    r"|(?:that|this|which|these) (?:means?|makes?|gives?))\b"
)
_VALUE = re.compile(
    r"(?:(?:so|thus|hence|therefore|finally),? )?(?:the|my|our) (?:[a-z]+ ){1,4}"
    r"(?:is|are|equals)(?: then| therefore)?:? (?:[^a-z\n=≈]|\b[a-z]\b){1,80}\Z"
)
"""A sentence that says of a thing what it is, without words: "the sum is 12"."""

_CARRIERS = frozenset(
    (
        *("okay", "ok", "right", "well", "good", "great", "fine", "alright", "now", "so", "then"),
        *("let", "let's", "lets", "us", "i", "i'm", "am", "we", "we're", "it", "this", "that"),
        *("these", "here", "here's", "there", "there's", "see", "look", "go", "going", "goes"),
        *("come", "comes", "continue", "move", "moving", "start", "begin", "on", "onwards"),
        *("ahead", "along", "to", "for", "the", "rest", "and", "next", "all", "again", "anyway"),
    )
)
"""Words that only carry a talk along."""

_CARRIED = re.compile(r"[\w']+")


class Said:
    """What a trace has said so far, and what it was asked.

    Args:
        prompt: What the model was asked; None if that is not known.
        count: Number of steps of the trace.
    """

    def __init__(self, prompt: str | None, count: int) -> None:
        asked = (prompt or "").lower()
        self._asked = set(_WORD.findall(asked))
        self._numbers = _numbers(asked)
        self._equations: set[str] = set()
        self._recent: deque[set[str]] = deque(maxlen=_RECENT)
        self._last = max(1, count - 1)
        self._index = 0

    def about(self, text: str) -> Iterator[str]:
        """Name all that is true of the next step, whose text is in lower case."""
        numbers = _numbers(text)
        known = len(numbers) > 0 and numbers <= self._numbers
        shape = self._shape(text, self._index)
        yield from (name for name, holds in shape.items() if holds)
        if self._asked and self._restates(text, self._index):
            yield "restates"
        equations = [match.group() for match in _EQUATION.finditer(text)]
        again = bool(equations) and self._equations.issuperset(equations)
        if again:
            yield "equations again"
        if known:
            yield "known numbers"
            if _CONCLUDES.match(text):
                yield self._concluded(text, again)
        self._numbers |= numbers
        self._recent.append(numbers)
        self._equations.update(equations)
        self._index += 1

    def _concluded(self, text: str, again: bool) -> str:
        """Name what a conclusion from known numbers does: say again, state, or reckon on."""
        *_, last = ["", *(match["result"].replace(",", "") for match in _EQUATION.finditer(text))]
        if not last:
            return "concludes in words" if "=" not in text else "concludes anew"
        just = len(last) > 1 and any(last in numbers for numbers in self._recent)
        return "concludes found" if again or just else "concludes anew"

    def _shape(self, text: str, index: int) -> dict[str, bool]:
        letters = sum(map(str.isalpha, text)) / max(1, len(text))
        words, place, left = len(text.split()), index / self._last, self._last - index
        value = _VALUE.match(text) is not None
        return {
            "symbols": letters < 0.35,
            "some symbols": 0.35 <= letters < 0.6,
            "colon": text.endswith(":"),
            "few words": words <= 4,
            "many words": words > 18,
            "first": index == 0,
            "first 3": index < 3 and place < 0.05,
            "first 7": 3 <= index < 7 and place < 0.1,
            "first 12": 7 <= index < 12 and place < 0.15,
            "late": place > 0.6,
            "last tenth": place > 0.9,
            "last two": left < 2,
            "value": value,
            "value at the end": value and (left < 3 or place > 0.9),
        }

    def _restates(self, text: str, index: int) -> bool:
        """Whether a step repeats the prompt: most of its own words, or first of all its numbers."""
        words = _WORD.findall(text)
        numbers = {word for word in self._asked if word.isdigit()}
        if (
            index == 0
            and len(numbers) > 1
            and len(numbers.intersection(words)) > _SHARED * len(numbers)
        ):
            return True
        return index <= self._last / 4 and len(self._asked.intersection(words)) > _SHARED * len(
            words
        )


def says_nothing(text: str) -> bool:
    """Say whether a text, in lower case, has no word, or only such as carry a talk along."""
    words = _CARRIED.findall(text)
    if not words or not any(map(str.isalnum, text)):
        return True
    return not text.endswith((":", "?")) and len(words) > 2 and _CARRIERS.issuperset(words)


def _numbers(text: str) -> set[str]:
    return {found.replace(",", "") for found in _NUMBER.findall(text)}
