"""Labels steps by rules: cues in the sentence, its shape and place, and the role before it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache

from ringlens.analysis.roles.cues import AFTER, BASE, CUES, ROLES, SHAPE
from ringlens.analysis.roles.label import UNKNOWN, Label
from ringlens.errors import ConfigError

SOURCE = "rules-1"
"""Source of these labels in a store; its number grows when the rules change."""

_LONGEST = 2_000
"""Characters of a step that are looked at: a step of code or of tables says no more after them."""

_SHARED = 0.6
"""Part of a step's words that is in the prompt if the step restates it."""

_BACKTRACK = re.compile(
    r"\b(?:go(?:ing)? back|back ?track\w*|start(?:ing)? over|dead end|scratch that|undo|abandon\w*"
    r"|(?:try|use|need|consider|take) (?:again|another|something else|a different|an alternative)"
    r"|(?:different|another|new) (?:approach|way|method|route|path)|back to"
    r"|(?:doesn't|does not|didn't|did not|won't|will not|can't|cannot)"
    r" (?:work|help|lead|be right|fit)"
    r"|(?:is|was|that's|isn't|wasn't)"
    r" (?:wrong|a mistake|incorrect|not right|not correct|impossible)"
    r"|made an? (?:mistake|error)|misread|miscount\w*|redo|rethink|reconsider|instead)\b"
    r"|^(?:but |oh |so )?(?:wait|no|hmm+|oops|actually)\b.*"
    r"\b(?:not|no|wrong|mistake|should(?:n't)?)\b",
    re.IGNORECASE | re.DOTALL,
)
_HYPOTHESIS = re.compile(
    r"\b(?:let me try|let's try|i(?:'ll| will| could| can) try|try(?:ing)? \S"
    r"|suppose|assum(?:e|ing)|what if|maybe|perhaps|hypothes\w+|guess|conjecture"
    r"|could it be|it could be|might be"
    r"|let's (?:say|imagine|suppose|test)|imagine)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")


def label(steps: Sequence[str], prompt: str | None = None) -> list[Label]:
    """Label the steps of one trace by rules.

    Args:
        steps: Texts of the steps, in order.
        prompt: What the model was asked; steps at the beginning that repeat its words set up the
            problem.

    Returns:
        A label each. The confidence is the role's share of exp(score) over all roles.

    Raises:
        ConfigError: The steps are one text, or not texts.
    """
    if isinstance(steps, str) or not all(isinstance(step, str) for step in steps):
        raise ConfigError("steps must be a list of texts; `segment(text)` says where each begins.")
    asked = set(_words(prompt or ""))
    labels: list[Label] = []
    for index, text in enumerate(steps):
        before = labels[-1].role if labels else None
        labels.append(_labelled(text[:_LONGEST].strip(), index, len(steps), before, asked))
    return labels


def _labelled(text: str, index: int, count: int, before: str | None, asked: set[str]) -> Label:
    backtrack, hypothesis = _BACKTRACK.search(text), _HYPOTHESIS.search(text)
    flags = backtrack is not None, hypothesis is not None
    if not any(character.isalnum() for character in text):
        return Label(UNKNOWN, *flags, 1.0)
    score = dict.fromkeys(ROLES[:-1], 0.0) | dict(BASE)
    for weights in _found(text, index, count, before):
        for role, weight in weights.items():
            score[role] += weight
    if asked and _restates(text, index, count, asked):
        score["problem_setup"] += 2
    role = max(score, key=lambda each: score[each])
    share = 1 / sum(math.exp(each - score[role]) for each in score.values())
    return Label(role, *flags, share)


def _restates(text: str, index: int, count: int, asked: set[str]) -> bool:
    """Whether a step repeats the prompt: most of its own words, or first of all the numbers."""
    words = _words(text)
    numbers = {word for word in asked if word.isdigit()}
    if (
        index == 0
        and len(numbers) > 1
        and len(numbers.intersection(words)) > _SHARED * len(numbers)
    ):
        return True
    return index < count / 4 and len(asked.intersection(words)) > _SHARED * len(words)


def _found(text: str, index: int, count: int, before: str | None) -> Iterator[dict[str, float]]:
    """Weights of all that speaks for or against a role."""
    for pattern, weights in _compiled():
        if pattern.search(text):
            yield weights
    for name in shape(text, index, count):
        yield dict(SHAPE[name])
    if before is not None and before in AFTER:
        yield dict(AFTER[before])


def shape(text: str, index: int, count: int) -> Iterator[str]:
    """Names in `SHAPE` of what is true of a step, the ``index``-th of ``count``."""
    letters = sum(map(str.isalpha, text)) / max(1, len(text))
    words, place = len(text.split()), index / max(1, count - 1)
    true = {
        "symbols": letters < 0.35,
        "some symbols": 0.35 <= letters < 0.6,
        "colon": text.endswith(":"),
        "few words": words <= 4,
        "many words": words > 18,
        "first 3": index < 3,
        "first 7": 3 <= index < 7,
        "first 12": 7 <= index < 12,
        "late": place > 0.6,
        "last tenth": place > 0.9,
        "last two": index >= count - 2,
    }
    yield from (name for name, holds in true.items() if holds)


@cache
def _compiled() -> list[tuple[re.Pattern[str], dict[str, float]]]:
    return [(re.compile(cue.pattern, re.IGNORECASE), dict(cue.weights)) for cue in CUES]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
