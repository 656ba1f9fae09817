"""Flags of steps: whether one abandons an attempt, and whether it proposes something to try."""

from __future__ import annotations

import re

# Words that say that an attempt is abandoned. What is said of the future, or of a case that may
# come ("go back when stuck", "go back from dead ends"), abandons nothing.
_IF = (
    r"(?! (?:when|whenever|if|where|wherever|as soon as|once|until|each time|every time)\b"
    r"| (?:from|out of) (?!this\b)(?:\w+ ){0,2}\w+s\b(?! to\b))"
)
_ABANDONS = re.compile(
    rf"\b(?:(?:go|going|went|turn|turning|step|stepping) back(?! and (?:verify|check)\b){_IF}"
    rf"|back ?track(?:ing|ed)?\b{_IF}"
    r"|back to"
    r"|tak(?:e|ing) (?:it|that|this|them|those|my words?) back"
    r"|start(?:ing)? (?:over|again|afresh)|dead end|scratch that|undo|abandon\w*"
    r"|giv(?:e|ing) (?:it |this |that )?up|(?:leads?|leading|goes|going|gets?) nowhere"
    r"|(?:try|use|need|consider|take) (?:again|another|something else|a different|an alternative)"
    r"|(?:different|another|new) (?:approach|way|method|route|path)"
    r"|redo|rethink|reconsider|instead(?! of\b))\b"
    r"|^(?:but |oh |so )?(?:wait|no|hmm+|oops|actually)\b.{0,200}"
    r"\b(?:not(?! (?:\w+ )?(?:sure|certain|clear)\b)|no|wrong|mistake|should(?:n't)?|slip)\b",
    re.DOTALL,
)
_FAILS = re.compile(
    r"\b(?:(?:doesn't|does not|didn't|did not|won't|will not|can't|cannot)"
    r" (?:work|help|lead|be right|fit)"
    r"|(?:is|was|that's|isn't|wasn't)"
    r" (?:wrong|a mistake|incorrect|not right|not correct|impossible)"
    r"|made an? (?:mistake|error)|misread|miscount\w*)\b"
)
"""Words that say that something failed, which is a way back unless a check only reports it."""

_HYPOTHESIS = re.compile(
    r"\b(?:let me try|let's try|i(?:'ll| will| could| can) try"
    r"|suppose|assum(?:e|ing)|what if|maybe|perhaps|hypothes\w+|guess|conjecture"
    r"|could it be|it could be|might be"
    r"|let's (?:say|imagine|suppose|test)|imagine)\b"
    r"|\btry(?:ing)? (?!to\b)\S"
    r"|^(?:so,? |now,? |or )?say,? (?:that\b|\S{1,12} (?:=|is\b|are\b|were\b))"
)
_PROCEDURE = re.compile(r"\btry(?:ing)? (?:one|each|every|all|any)\b")
"""To try one after another is a procedure, and proposes nothing in particular."""


def is_backtrack(text: str, role: str) -> bool:
    """Say whether a step abandons an attempt.

    Args:
        text: Its text, in lower case.
        role: Its role; a check that finds something wrong does not itself go back.
    """
    if _ABANDONS.search(text) is not None:
        return True
    return role != "self_checking" and _FAILS.search(text) is not None


def is_hypothesis(text: str) -> bool:
    """Say whether a step proposes something to try; its text is in lower case."""
    return _HYPOTHESIS.search(_PROCEDURE.sub("", text)) is not None
