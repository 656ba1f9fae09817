"""Settings of a run: frozen, checked when they are made, unknown names refused.

What to record is said in names ("logprobs", "routing", "router_logits", "heads", "head_blocks"),
in objects (`Vectors`, `TopAttention`), or in the objects' text form, which the command line takes
and the store keeps:

    resid_post@3+5          the residual stream after layers 3 and 5
    head_out@2/0-3[0:128]   outputs of heads 0 to 3 of layer 2 at the first 128 positions
    attention:8@2/1         of head 1 in layer 2, the 8 positions that each token looks at most
    final_norm@             a point outside the layers
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from ringlens.errors import ConfigError

RECORDABLE = ("logprobs", "routing", "router_logits", "heads", "head_blocks")


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


@dataclass(frozen=True)
class Vectors:
    """Record the vectors at one point of the model.

    Attributes:
        point: Name of the point, see `ringlens.observe.points`.
        layers: Layers; None for all that have the point.
        heads: Heads, for ``head_out``; None for all.
        span: Positions of the trace, start and stop; stop None for the end.
    """

    point: str
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    span: tuple[int, int | None] = (0, None)

    def __str__(self) -> str:
        return self.point + _where(self)


@dataclass(frozen=True)
class TopAttention:
    """Record the positions that heads look at most.

    Attributes:
        layers: Layers.
        heads: Heads, the same in each layer; None for all.
        k: Positions for each token.
        span: Positions of the trace that look, start and stop; stop None for the end.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None
    k: int = 4
    span: tuple[int, int | None] = (0, None)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        _check(self.k >= 1, "k", self.k, "at least 1")

    def __str__(self) -> str:
        return f"attention:{self.k}" + _where(self)


Recorded = str | Vectors | TopAttention


def recordable(wanted: Iterable[Recorded]) -> tuple[Recorded, ...]:
    """Check what is to be recorded, and read what is given as text.

    Returns:
        Names in the order of RECORDABLE, then objects in the order given. Heads bring their blocks.

    Raises:
        ConfigError: An unknown name, router logits without the choices they explain, or the same
            thing twice.
    """
    items = [wanted] if isinstance(wanted, str | Vectors | TopAttention) else list(wanted)
    read = [_read(item) if isinstance(item, str) else item for item in items]
    if "router_logits" in read and "routing" not in read:
        raise ConfigError("record 'routing' as well: router_logits are stored with the choices.")
    if "heads" in read:
        read.append("head_blocks")
    objects = [item for item in read if not isinstance(item, str)]
    kinds = [item.point if isinstance(item, Vectors) else "attention" for item in objects]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(f"{kind} is to be recorded twice; put its layers into one request.")
    return (*(name for name in RECORDABLE if name in read), *objects)


_TEXT = re.compile(
    r"(?P<name>\w+)(:(?P<k>\d+))?(@(?P<layers>[\d+-]*))?(/(?P<heads>[\d+-]+))?"
    r"(\[(?P<start>\d*):(?P<stop>\d*)\])?"
)


def _read(text: str) -> Recorded:
    """A name as it is, a text form as its object."""
    found = _TEXT.fullmatch(text)
    if text in RECORDABLE or found is None or found[0] == found["name"]:
        if text not in RECORDABLE:
            raise ConfigError(
                f"cannot record {text!r}.{_nearest(text, RECORDABLE)} Vectors are asked for with "
                f"their layers, as in 'resid_post@3+5'."
            )
        return text
    layers, heads = (_numbers(found[part], text) for part in ("layers", "heads"))
    span = (int(found["start"] or 0), int(found["stop"]) if found["stop"] else None)
    if found["name"] != "attention":
        return Vectors(found["name"], layers, heads, span)
    if layers is None:
        raise ConfigError(f"{text!r} names no layers; write attention:4@LAYERS/HEADS.")
    return TopAttention(layers, heads, int(found["k"] or 4), span)


def _numbers(text: str | None, whole: str) -> tuple[int, ...] | None:
    """Read "3+5-7" as (3, 5, 6, 7)."""
    if text is None:
        return None
    numbers: set[int] = set()
    for part in text.split("+") if text else ():
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ConfigError(f"{whole!r}: {text!r} is no list of numbers; write 3+5 or 0-7.")
        numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def _where(wanted: Vectors | TopAttention) -> str:
    layers = "" if wanted.layers is None else "@" + "+".join(map(str, wanted.layers))
    heads = "" if wanted.heads is None else "/" + "+".join(map(str, wanted.heads))
    start, stop = wanted.span
    span = "" if (start, stop) == (0, None) else f"[{start}:{'' if stop is None else stop}]"
    return layers + heads + span


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known)}."


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value!r}; it must be {wanted}.")
