"""Settings of a run: frozen, checked when they are made, unknown names refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from ringlens.errors import ConfigError

RECORDABLE = ("routing", "router_logits", "heads")


@dataclass(frozen=True)
class Sampling:
    """How text is generated.

    Attributes:
        max_new_tokens: Most tokens a trace may add to its prompt.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        top_k: Draw among the k most likely tokens; 0 for all.
        top_p: Draw among the most likely tokens that hold this share of probability.
        seed: Seed of the run; a trace's own seed follows from it and the trace's index.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        _check(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _check(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _check(self.top_k >= 0, "top_k", self.top_k, "0 (all tokens) or more")
        _check(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _check(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2**31 - 1")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from a mapping; an unknown name is an error that suggests the nearest one."""
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"unknown setting {name!r}.{_nearest(name, names)}")
        return cls(**values)


def recordable(names: Iterable[str]) -> tuple[str, ...]:
    """Check what is to be recorded; keeps the order of RECORDABLE.

    Raises:
        ConfigError: An unknown name, or router logits without the choices they explain.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in RECORDABLE:
            raise ConfigError(f"cannot record {name!r}.{_nearest(name, RECORDABLE)}")
    if "router_logits" in wanted and "routing" not in wanted:
        raise ConfigError("record 'routing' as well: router_logits are stored with the choices.")
    return tuple(name for name in RECORDABLE if name in wanted)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known)}."


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value!r}; it must be {wanted}.")
