"""What every intervention is: a frozen object that says what it changes, in which layers, where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from ringlens.config import INT32, number, whole
from ringlens.errors import ConfigError
from ringlens.interventions.place import Place, place_of

Numbers = int | Iterable[int]
"""A number, or several."""

KINDS: dict[str, type[Intervention]] = {}
"""Every kind of intervention by the name that its text form begins with."""


@dataclass(frozen=True, repr=False)
class Intervention:
    """One change of a model while it runs.

    ``str`` gives its text form, which the command line takes and ``runs.interventions`` keeps;
    ``repr`` gives Python.

    Args:
        layer: A layer or several, negative ones from the last; None for every one that it can
            change.
        phase: "prompt", "think" or "answer", or several; None for all. A phase is what the text
            up to the token reads as.
        span: Positions of the trace, start and stop; a stop of None is the end.
        words: Words to wait for, without regard to case: it acts at the token that completes one.
        reach: At how many tokens it acts from there, the completing one included.

    Raises:
        ConfigError: A value that cannot be.
    """

    layer: Numbers | None
    phase: str | Iterable[str] | None = field(default=None, kw_only=True)
    span: tuple[int, int | None] = field(default=(0, None), kw_only=True)
    words: str | Iterable[str] = field(default=(), kw_only=True)
    reach: int = field(default=1, kw_only=True)

    kind: ClassVar[str] = ""
    """Name of the kind in the text form."""

    target: ClassVar[str] = ""
    """Field that says what it changes in a layer."""

    strength: ClassVar[str] = ""
    """Field that says by how much; "" where there is none."""

    def __init_subclass__(cls) -> None:
        if cls.kind:
            KINDS[cls.kind] = cls

    def __post_init__(self) -> None:
        """Check every value, and give equal interventions equal fields."""
        place = place_of(self.phase, self.span, self.words, self.reach)
        self._fix("layer", None if self.layer is None else wholes("layer", self.layer, -INT32))
        self._fix("phase", place.phases or None)
        for name in ("span", "words", "reach"):
            self._fix(name, getattr(place, name))

    def _fix(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers, ascending; None for all."""
        layers: Any = self.layer
        return layers

    @property
    def place(self) -> Place:
        """The tokens at which it acts."""
        return place_of(self.phase, self.span, self.words, self.reach)

    def _target(self) -> str:
        """Text form of what it changes in a layer."""
        return _joined(getattr(self, self.target))

    def _strength(self) -> str:
        """Text form of by how much."""
        return repr(getattr(self, self.strength))

    def __str__(self) -> str:
        layers = "*" if self.layers is None else _joined(self.layers)
        strength = f"={self._strength()}" if self.strength else ""
        place = f"@{self.place}" if not self.place.is_everywhere else ""
        return f"{self.kind}:{layers}/{self._target()}{strength}{place}"

    def __repr__(self) -> str:
        listed = sorted(fields(self), key=lambda each: bool(each.kw_only))  # as they are given
        given = ((each.name, getattr(self, each.name), each.default) for each in listed)
        said = [
            f"{name}={_short(name, value)}" for name, value, default in given if value != default
        ]
        return f"{type(self).__name__}({', '.join(said)})"


def wholes(name: str, given: object, least: int = 0) -> tuple[int, ...]:
    """A whole number or several, as different numbers in ascending order.

    Raises:
        ConfigError: It is something else, or empty.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        return (whole(name, given, least),)
    found = tuple(sorted({whole(name, each, least) for each in given}))
    if not found:
        raise ConfigError(f"{name} is empty; name at least one number.")
    return found


def finite(name: str, given: object) -> float:
    """A finite number as a float.

    Raises:
        ConfigError: It is something else.
    """
    found = number(name, given, -1e30, 1e30)
    return found + 0.0  # no negative zero


def _joined(numbers: Iterable[int]) -> str:
    """Numbers in text form: runs of three and more as "3-7", others joined by "+"."""
    runs: list[list[int]] = []
    for each in numbers:
        if runs and each == runs[-1][-1] + 1 and runs[-1][0] >= 0:
            runs[-1].append(each)
        else:
            runs.append([each])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else "+".join(map(str, run)) for run in runs]
    return "+".join(parts)


def _short(name: str, value: object) -> str:
    """A value as it was given, most likely: a tuple of one as what is in it."""
    alone = isinstance(value, tuple) and len(value) == 1 and name != "span"
    return repr(value[0]) if alone else repr(value)  # type: ignore[index]
