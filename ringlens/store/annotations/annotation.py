"""Annotation: what a person says of a trace, a step or an expert, checked."""

from __future__ import annotations

import getpass
import secrets
import unicodedata
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ringlens.errors import ConfigError
from ringlens.plain import half_pair
from ringlens.store.schema.annotation.table import PERSON

LONGEST_NAME = 200
"""Characters of a label, an author or a source."""

LONGEST_NOTE = 10_000
"""Characters of a note."""


@dataclass(frozen=True)
class Target:
    """What an annotation is about: a trace, one of its steps, or an expert.

    Attributes:
        run_id: Run that the trace is of, or whose expert it is about.
        trace_id: The trace; None for an expert.
        step: Number of the step; None for a whole trace.
        token_start: Position of the step's first token.
        token_end: Position after its last token.
        layer: Layer of the expert; None for a trace.
        expert: Expert id.
    """

    run_id: str
    trace_id: int | None = None
    step: int | None = None
    token_start: int | None = None
    token_end: int | None = None
    layer: int | None = None
    expert: int | None = None

    def __str__(self) -> str:
        if self.expert is not None:
            return f"layer {self.layer}, expert {self.expert} of run {self.run_id}"
        step = "" if self.step is None else f", step {self.step}"
        return f"trace {self.trace_id}{step}"


@dataclass(frozen=True)
class Annotation:
    """A label, a note, or both; or the retraction of an earlier one.

    Attributes:
        target: What it is about.
        author: Who says it.
        label: Short name; None without one.
        note: Free text; None without one.
        source: 'person', or what it was imported from.
        supersedes: Annotation that this one corrects or retracts.
        is_retraction: Whether it only retracts.
        annotation_id: Random, unique in all stores.
        created: When it was said.

    Raises:
        ConfigError: There is neither a label nor a note; or a text is too long, or has characters
            that no line of text has.
    """

    target: Target
    author: str
    label: str | None = None
    note: str | None = None
    source: str = PERSON
    supersedes: str | None = None
    is_retraction: bool = False
    annotation_id: str = field(default_factory=lambda: secrets.token_hex(8))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        for name in ("label", "author", "source"):
            object.__setattr__(self, name, _line(name, getattr(self, name)))
        object.__setattr__(self, "note", _text("note", self.note, LONGEST_NOTE, "\n\t"))
        if not self.author or not self.source:
            raise ConfigError("an annotation needs an author and a source: give their names")
        if self.is_retraction != (self.label is None and self.note is None):
            raise ConfigError("an annotation says something: give a label, a note, or both")

    def row(self) -> dict[str, Any]:
        """The row of ``annotations``."""
        found = asdict(self)
        return {**found.pop("target"), **found}


def system_user() -> str:
    """Name of the user that runs this process.

    Raises:
        ConfigError: The system does not know the user.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError) as error:
        raise ConfigError(
            f"the system has no name for this user ({error}): say who the author is"
        ) from None


def _line(name: str, value: object) -> str | None:
    return _text(name, value, LONGEST_NAME, "")


def _text(name: str, value: object, longest: int, allowed: str) -> str | None:
    """Check a text, without spaces at its ends; None if nothing is left."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"the {name} of an annotation is a text, not {value!r:.80}")
    found = value.replace("\r\n", "\n").strip()
    if len(found) > longest:
        raise ConfigError(
            f"the {name} of an annotation has {len(found):,} characters: at most {longest:,} fit"
        )
    if half_pair(found) is not None:
        raise ConfigError(
            f"the {name} of an annotation has half of a surrogate pair: {found!r:.80}"
        )
    for letter in found:
        if letter not in allowed and unicodedata.category(letter) in ("Cc", "Zl", "Zp"):
            raise ConfigError(
                f"the {name} of an annotation has the control character {letter!r}: leave it out"
            )
    return found or None
