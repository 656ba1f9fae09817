r"""Candidate answers: what a step says is the answer, before the thought is over."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Finder = Callable[[str, str | None], Sequence[str]]
"""Finds the candidate answers in a step's text, given its role, in order."""

EMISSION = "final_answer_emission"
"""Role of steps that give the answer, whatever they call it."""

# Braces of a box may hold braces of one level, as \frac{1}{2} has; what is deeper is cut off.
_BOX = r"\\(?:boxed|fbox)\s*\{(?P<box>(?:[^{}]|\{[^{}]*\}){1,200})\}"
_STATED = (
    r"\b(?:the|my|our|final|correct|an?)?\s*(?:answer|solution|result)\s*"
    r"(?:is|should be|must be|would be|will be|equals|=|:)\s*:?\s*(?P<stated>[^\n;]{1,200})"
)
_CANDIDATE = re.compile(f"{_BOX}|{_STATED}", re.IGNORECASE)
_EMITTED = re.compile(
    r"\b(?:the|my|our)\s[\w\s]{1,40}?\s(?:is|equals)\s(.{1,200})", re.I | re.DOTALL
)
_CLAUSE = re.compile(
    r"(?:[.!?](?=\s|\Z)|,\s|\s(?:because|since|which|so|but|and|as)\b).*", re.DOTALL
)
_NO_ANSWER = re.compile(
    r"(?:not|wrong|correct|right|in|of|the same|indeed|consistent|close|likely|probably|still)\b",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"\A[\s*_`$\"'“‘:]+|[\s*_`$\"'”’.,]+\Z")


def stated_answers(text: str, role: str | None = None) -> list[str]:
    r"""Find what a text boxes, or states after words such as "the answer is".

    Args:
        text: Text of a step.
        role: Its role; a step that gives the answer may call it by another name, as "the path is".

    Returns:
        The candidates in order, without marks around them. Of a sentence that only judges an
        answer ("the answer is wrong") there is none.
    """
    found = []
    for match in _CANDIDATE.finditer(text):
        box = match["box"]
        if box is None and (inner := re.search(_BOX, match["stated"])) is not None:
            box = inner["box"]
        answer = box if box is not None else _CLAUSE.sub("", match["stated"])
        answer = _WRAPPED.sub("", answer)
        if answer and (box is not None or not _NO_ANSWER.match(answer)):
            found.append(answer)
    if not found and role == EMISSION and (emitted := _EMITTED.search(text)) is not None:
        answer = _WRAPPED.sub("", re.sub(r"\.\s*\Z", "", emitted[1]))
        found += [answer] if answer and not _NO_ANSWER.match(answer) else []
    return found
