"""At which tokens an intervention acts: phases, positions, and words that it waits for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from ringlens.config import known_only, whole
from ringlens.errors import ConfigError
from ringlens.plain import check_text

PHASES = ("prompt", "think", "answer")

Span = tuple[int, int | None]


@dataclass(frozen=True)
class Place:
    """The tokens at which an intervention acts; every condition must hold.

    All of it follows from the tokens up to the one in question, so a token is inside or outside
    whether the model writes it or reads it.

    Attributes:
        phases: Phases in which it acts; empty for all.
        span: Positions of the trace, start and stop; a stop of None is the end.
        words: Words that it waits for, in lower case; empty for none. It acts at the token that
            completes one of them.
        reach: At how many tokens it acts from there, the completing one included.
    """

    phases: tuple[str, ...] = ()
    span: Span = (0, None)
    words: tuple[str, ...] = ()
    reach: int = 1

    @property
    def is_everywhere(self) -> bool:
        """Whether it is every token."""
        return self == Place()

    @property
    def reads_text(self) -> bool:
        """Whether it depends on what the tokens say."""
        return bool(self.phases or self.words)

    def __str__(self) -> str:
        start, stop = self.span
        span = f"[{start}:{'' if stop is None else stop}]" if self.span != (0, None) else ""
        words = "+".join(json.dumps(word, ensure_ascii=False) for word in self.words)
        reach = f"~{self.reach}" if self.reach != 1 else ""
        return "+".join(self.phases) + span + words + reach


def place_of(phase: object, span: object, words: object, reach: object) -> Place:
    """Check where an intervention is to act.

    Raises:
        ConfigError: No such phase, a span or reach that is none, or words that are none.
    """
    phases = texts("phase", phase)
    known_only(phases, PHASES, "phase")
    found = tuple(name for name in PHASES if name in phases)
    said = tuple(dict.fromkeys(word.strip().lower() for word in texts("words", words)))
    for word in said:
        check_text(word, "words: ")
    if not all(said):
        raise ConfigError(f"words = {words!r:.60}; a word to wait for must not be empty.")
    if not said and reach != 1:
        raise ConfigError(f"reach = {reach!r:.20}, but there are no words that it counts from.")
    if found == PHASES:
        found = ()
    return Place(found, _span(span), said, whole("reach", reach, 1))


def texts(name: str, given: object) -> tuple[str, ...]:
    """A text, several or None as a tuple.

    Raises:
        ConfigError: It is something else.
    """
    if given is None:
        return ()
    listed = (given,) if isinstance(given, str) else given
    if isinstance(listed, Iterable) and not isinstance(listed, bytes):
        found = tuple(listed)
        if all(isinstance(each, str) for each in found):
            return found
    raise ConfigError(f"{name} = {given!r:.60}; it must be a text, or a list of texts.")


def _span(span: object) -> Span:
    if not isinstance(span, tuple | list) or len(span) != 2:
        raise ConfigError(f"span = {span!r:.60}; it must be two positions, start and stop.")
    start = whole("span", span[0], 0)
    stop = None if span[1] is None else whole("span", span[1], 0)
    if stop is not None and stop <= start:
        raise ConfigError(f"span = {span!r:.60} holds no position; the stop must lie behind it.")
    return start, stop
