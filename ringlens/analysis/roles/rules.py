"""Labels steps by rules: cues in the sentence, its shape and place, and what was said before it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache

from ringlens.analysis.roles.context import Said, says_nothing
from ringlens.analysis.roles.cues import AFTER, BASE, CONTEXT, CUES, ROLES, Weights
from ringlens.analysis.roles.flags import is_backtrack, is_hypothesis
from ringlens.analysis.roles.label import UNKNOWN, Label
from ringlens.errors import ConfigError

SOURCE = "rules-2"
"""Source of these labels in a store; its number grows when the rules change."""

_LONGEST = 2_000
"""Characters of a step that are looked at: a step of code or of tables says no more after them."""


def label(steps: Sequence[str], prompt: str | None = None) -> list[Label]:
    """Label the steps of one trace by rules.

    Args:
        steps: Texts of the steps, in order.
        prompt: What the model was asked; steps at the beginning that repeat its words set up the
            problem, and its numbers are known from the beginning.

    Returns:
        A label each. The confidence is the role's share of exp(score) over all roles.

    Raises:
        ConfigError: The steps are one text, or not texts.
    """
    labels: list[Label] = []
    for text, names in zip(steps, evidence(steps, prompt), strict=True):
        before = labels[-1].role if labels else None
        role, confidence = _role(names, before)
        shown = _shown(text)
        labels.append(Label(role, is_backtrack(shown, role), is_hypothesis(shown), confidence))
    return labels


def evidence(steps: Sequence[str], prompt: str | None = None) -> Iterator[list[str]]:
    """Name all that speaks for or against a role in each step of a trace.

    Args:
        steps: Texts of the steps, in order.
        prompt: What the model was asked.

    Yields:
        Names in `CUES` and `CONTEXT`; "unknown" alone for a step that says nothing.

    Raises:
        ConfigError: The steps are one text, or not texts.
    """
    if isinstance(steps, str) or not all(isinstance(step, str) for step in steps):
        raise ConfigError("steps must be a list of texts; `segment(text)` says where each begins.")
    said = Said(prompt, len(steps))
    for step in steps:
        text = _shown(step)
        around = list(said.about(text))
        if says_nothing(text):
            yield [UNKNOWN]
        else:
            yield [name for name, pattern in _compiled() if pattern.search(text)] + around


def _role(names: Sequence[str], before: str | None) -> tuple[str, float]:
    """The role that the evidence speaks for most, and its share."""
    if UNKNOWN in names:
        return UNKNOWN, 1.0
    weights = _weights()
    score = dict.fromkeys(ROLES[:-1], 0.0) | dict(BASE)
    for each in (*(weights[name] for name in names), AFTER.get(before or "", {})):
        for role, weight in each.items():
            score[role] += weight
    role = max(score, key=lambda each: score[each])
    return role, 1 / sum(math.exp(each - score[role]) for each in score.values())


def _shown(step: str) -> str:
    """What is looked at of a step."""
    return step[:_LONGEST].strip().lower()


@cache
def _compiled() -> list[tuple[str, re.Pattern[str]]]:
    return [(cue.name, re.compile(cue.pattern)) for cue in CUES]


@cache
def _weights() -> dict[str, Weights]:
    return {cue.name: cue.weights for cue in CUES} | dict(CONTEXT)
