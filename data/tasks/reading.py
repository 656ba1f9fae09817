"""Reads sentences of told thoughts back: the role that each was meant to play.

A model that learnt from told thoughts writes their sentences, with numbers of its own. What a
sentence was meant to do is known from the phrase that it fits.
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import NamedTuple

from ringlens.data.tasks import mix
from ringlens.data.tasks.story import Phrases

HEARD = 400
"""Thoughts of each kind that the phrases are taken from; all are said in these."""

_NAME = re.compile(r"\{(\w+)\}")
# Numbers, names of one letter, signs, and the words that stand between them in lists.
_VALUE = r"(?:[-\d,+*/()= ]|\b[A-Zx]\b|\bmod\b|\band\b)+?"


class Meant(NamedTuple):
    """What a sentence was meant to do.

    Attributes:
        role: Its role.
        is_backtrack: Whether it gives something up.
        is_hypothesis: Whether it supposes something.
    """

    role: str
    is_backtrack: bool
    is_hypothesis: bool


def read(task: str, text: str) -> Meant | None:
    """Say what a sentence was meant to do; None if it fits no phrase of the task, or several.

    Args:
        task: Task of the thought.
        text: The sentence.
    """
    found = {meant for pattern, meant, _ in _phrases(task) if pattern.fullmatch(text.strip())}
    return found.pop() if len(found) == 1 else None


def reworded(rng: random.Random, task: str, text: str) -> str | None:
    """Say the same by another phrase; None if there is none.

    Args:
        rng: Source of the phrasing.
        task: Task of the thought.
        text: The sentence.
    """
    for pattern, _, phrases in _phrases(task):
        if found := pattern.fullmatch(text.strip()):
            values, own = found.groupdict(), _names(phrases.chosen)
            others = [p for p in phrases.among if p != phrases.chosen and _names(p) == own]
            return rng.choice(others).format(**values) if others else None
    return None


@cache
def _phrases(task: str) -> tuple[tuple[re.Pattern[str], Meant, Phrases], ...]:
    """All phrases of a task, as patterns, with what they mean."""
    found: dict[tuple[Phrases, Meant], None] = {}
    for kind in (kind for kind in mix.KINDS if kind.task == task):
        rng = random.Random(f"phrases {kind.name}")
        for _ in range(HEARD):
            trace = kind.tell(rng, kind.sample(rng))
            for step, phrases in zip(trace.steps, trace.phrases, strict=False):
                meant = Meant(step.role, step.is_backtrack, step.is_hypothesis)
                found[phrases, meant] = None
    return tuple((_pattern(p.chosen), meant, p) for p, meant in found)


def _pattern(phrase: str) -> re.Pattern[str]:
    """A pattern of all that a phrase may say."""
    seen: set[str] = set()
    parts = []
    for at, part in enumerate(_NAME.split(phrase)):
        if at % 2 == 0:
            parts.append(re.escape(part))
        else:
            parts.append(f"(?P={part})" if part in seen else f"(?P<{part}>{_VALUE})")
            seen.add(part)
    return re.compile("".join(parts))


def _names(phrase: str) -> set[str]:
    return set(_NAME.findall(phrase))
