"""Settings of a run: frozen, checked when they are made, unknown names refused.

What to record is given as names ("logprobs", "routing", "router_logits", "heads", "head_blocks",
and what else is in `ringlens.store.schema.instruments`), as objects (`OnLayers`, `Vectors`,
`TopAttention`), or in the text form of these objects, which the command line takes and the store
keeps:

    routing@3-5             the routing of layers 3 to 5 alone
    resid_post@3+5          the residual stream after layers 3 and 5
    head_out@2/0-3[0:128]   outputs of heads 0 to 3 of layer 2 at the first 128 positions
    attention:8@2/1         the 8 positions that each token attends to most, in head 1 of layer 2
    final_norm@             a point outside the layers
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

from ringlens.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")

INT32 = 2**31 - 1
DIGITS = 6
"""Most digits of a layer or head in a request's text form; k and positions have twice as many."""

LONGEST = 4096
"""Most characters of a request's text form."""

COLDEST = 1e-30
"""Least temperature above 0: logits divided by less overflow float32."""


def whole(
    name: str, value: object, least: int, most: int = INT32, *, error: type[Exception] = ConfigError
) -> int:
    """A whole number of any type (numpy's too) as a Python int, which JSON and SQL take.

    Args:
        name: Name of the setting, for the message.
        value: What was given; no bool, and no float even if it is whole.
        least: Least value.
        most: Greatest value.
        error: What is raised.

    Raises:
        ConfigError: It is something else, or out of range; ``error`` in its place if given.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most:
        return int(value)
    raise error(f"{name} = {value!r:.60}; it must be {_span(least, most)}.")


def number(name: str, value: object, least: float, most: float = math.inf) -> float:
    """A number of any type as a float; infinity if ``most`` allows it.

    Raises:
        ConfigError: It is something else, NaN, or out of range.
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if real and least <= value <= most:  # type: ignore[operator]  # exact, where float() overflows
        return float(value)  # type: ignore[arg-type]
    above = f"{least:g} to {most:g}" if most < math.inf else f"{least:g} or more"
    raise ConfigError(f"{name} = {value!r:.60}; it must be a number, {above}.")


def _span(least: int, most: int) -> str:
    """The range of a whole number in words."""
    return f"a whole number, {least} " + ("or more" if most >= INT32 else f"to {most}")


def known_only(given: Iterable[str], known: Iterable[str], kind: str = "setting") -> None:
    """Refuse unknown names; the message suggests the nearest and lists all known.

    Raises:
        ConfigError: A name is unknown.
    """
    known = tuple(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown {kind} {name!r:.60}.{_nearest(name, known)}")


def refuse_unknown(call: Callable[P, R]) -> Callable[P, R]:
    """Make a public function refuse unknown names of settings with the sentence of `known_only`.

    Python's own TypeError lists nothing. For `inspect`, editors and type checkers the function
    keeps its signature.
    """

    @wraps(call)
    def checked(*given: P.args, **named: P.kwargs) -> R:
        if named:  # a signature takes longer to read than many a query to plan
            known_only(named, [name for name in signature(call).parameters if name != "self"])
        return call(*given, **named)

    return checked


@dataclass(frozen=True)
class Sampling:
    """How text is generated.

    Attributes:
        max_new_tokens: Most tokens a trace may add to its prompt.
        temperature: 0 takes the most likely token; above, tokens are drawn.
        top_k: Draw among the k most likely tokens; 0 for all.
        top_p: Draw among the most likely tokens that together have this probability.
        seed: Seed of the run; the seed of a trace follows from it and the trace's index.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range, and turn the others into Python's own numbers."""
        fixed = {
            "max_new_tokens": whole("max_new_tokens", self.max_new_tokens, 1),
            "temperature": number("temperature", self.temperature, 0, 1e30),
            "top_k": whole("top_k", self.top_k, 0),
            "top_p": number("top_p", self.top_p, 0, 1),
            "seed": whole("seed", self.seed, 0),
        }
        _check(fixed["top_p"] > 0, "top_p", self.top_p, "above 0 and at most 1")
        cold = 0 < fixed["temperature"] < COLDEST
        _check(not cold, "temperature", self.temperature, f"0 (greedy) or at least {COLDEST}")
        _set(self, fixed)


def samples_of(samples: object, settings: Sampling) -> int:
    """How many traces a row gets.

    Raises:
        ConfigError: It is no number; or there are several, and nothing is drawn.
    """
    count = whole("samples", samples, 1)
    if count > 1 and (settings.temperature == 0 or settings.top_k == 1):
        greedy = "temperature = 0" if settings.temperature == 0 else "top_k = 1"
        raise ConfigError(
            f"{count} samples of a problem would all be equal, as {greedy} always takes the most "
            "likely token; give a temperature such as 0.7, without top_k = 1, or one sample."
        )
    return count


@dataclass(frozen=True)
class Vectors:
    """Record the vectors at one point of the model.

    Attributes:
        point: Name of the point, see `ringlens.observe.points`.
        layers: Layers; None for all that have the point.
        heads: Heads, for ``head_out``; None for all.
        span: Positions of the trace, start and stop; a stop of None is the end.
    """

    point: str
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    span: tuple[int, int | None] = (0, None)

    def __post_init__(self) -> None:
        """Refuse a point that is no name, and layers, heads and spans that are none."""
        _check(isinstance(self.point, str), "point", self.point, "the name of a point")
        _set(self, _places(self.layers, self.heads, self.span))

    def __str__(self) -> str:
        return self.point + _where(self)

    @property
    def observed_as(self) -> str:
        """Name of its numbers while they are recorded."""
        return self.point


@dataclass(frozen=True)
class TopAttention:
    """Record the positions that heads attend to most.

    Attributes:
        layers: Layers.
        heads: Heads, the same in each layer; None for all.
        k: Positions for each token.
        span: Positions of the tokens that attend, start and stop; a stop of None is the end.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None
    k: int = 4
    span: tuple[int, int | None] = (0, None)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        _check(self.layers is not None, "layers", None, "a list of layers")
        _set(self, {"k": whole("k", self.k, 1), **_places(self.layers, self.heads, self.span)})

    def __str__(self) -> str:
        return f"attention:{self.k}" + _where(self)

    @property
    def observed_as(self) -> str:
        """Name of its numbers while they are recorded."""
        return "attention"


@dataclass(frozen=True)
class OnLayers:
    """Record what a name stands for on some layers only.

    Attributes:
        name: The name, as "routing".
        layers: The layers.
    """

    name: str
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse a name that is none, and layers that are none."""
        _check(isinstance(self.name, str), "name", self.name, "the name of something to record")
        _check(self.layers is not None, "layers", None, "a list of layers")
        _set(self, {"layers": _wholes("layers", self.layers, -INT32)})

    def __str__(self) -> str:
        return f"{self.name}@{'+'.join(map(str, self.layers))}"

    @property
    def observed_as(self) -> str:
        """Name by which it is told from other requests."""
        return self.name


Chosen = Vectors | TopAttention
"""Requests for chosen layers, heads and positions."""

Recorded = str | OnLayers | Chosen


_TEXT = re.compile(
    r"(?P<name>\w+)(:(?P<k>\d+))?(@(?P<layers>[\d+-]*))?(/(?P<heads>[\d+-]+))?"
    r"(\[(?P<start>\d*):(?P<stop>\d*)\])?"
)


def read_request(item: Recorded, names: Sequence[str]) -> Recorded:
    """A request as it is, but its text form as its object.

    Args:
        item: A name, an object, or an object's text form.
        names: The names that are known.

    Raises:
        ConfigError: A text that is neither.
    """
    if not isinstance(item, str) or item in names:
        return item
    found = _TEXT.fullmatch(item) if len(item) <= LONGEST else None
    if found is None or found[0] == found["name"]:
        raise ConfigError(
            f"cannot record {item!r:.60}.{_nearest(item, names)} Vectors are asked for "
            "with their layers, as in 'resid_post@3+5'."
        )
    layers, heads = (_numbers(found[part], item) for part in ("layers", "heads"))
    if max(len(found[part] or "") for part in ("k", "start", "stop")) > 2 * DIGITS:
        raise ConfigError(f"{item!r:.60}: k and positions have at most {2 * DIGITS} digits.")
    span = (int(found["start"] or 0), int(found["stop"]) if found["stop"] else None)
    if found["name"] in names:
        return _on_layers(item, found, layers)
    if found["name"] != "attention":
        return Vectors(found["name"], layers, heads, span)
    if layers is None:
        raise ConfigError(f"{item!r} names no layers; write attention:4@LAYERS/HEADS.")
    return TopAttention(layers, heads, int(found["k"] or 4), span)


def _on_layers(item: str, found: re.Match[str], layers: tuple[int, ...] | None) -> OnLayers:
    """A name with its layers; of a name nothing else is chosen."""
    name = found["name"]
    if found[0] != f"{name}@{found['layers']}":
        raise ConfigError(
            f"{item!r:.60}: only layers are chosen of {name}, as in '{name}@3-5'; it is recorded "
            "of all heads and positions."
        )
    if not layers:
        raise ConfigError(f"{item!r:.60} names no layers; write '{name}@3-5', or {name!r} for all.")
    return OnLayers(name, layers)


def _numbers(text: str | None, request: str) -> tuple[int, ...] | None:
    """Read "3+5-7" as (3, 5, 6, 7)."""
    if text is None:
        return None
    numbers: set[int] = set()
    for part in text.split("+") if text else ():
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ConfigError(f"{request!r}: {text!r} is no list of numbers; write 3+5 or 0-7.")
        if max(len(first), len(last)) > DIGITS:  # a larger range would fill the memory
            raise ConfigError(f"{request!r}: numbers have at most {DIGITS} digits here.")
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


def _places(
    layers: object, heads: object, span: object
) -> dict[str, tuple[int, ...] | tuple[int, int | None] | None]:
    """Layers, heads and a span as tuples of Python ints; layers may be negative."""
    if not isinstance(span, tuple | list) or len(span) != 2:
        raise ConfigError(f"span = {span!r:.60}; it must be two positions, start and stop.")
    start, stop = span
    return {
        "layers": _wholes("layers", layers, -INT32),
        "heads": _wholes("heads", heads, 0),
        "span": (whole("span", start, 0), None if stop is None else whole("span", stop, 0)),
    }


def _wholes(name: str, values: object, least: int) -> tuple[int, ...] | None:
    if values is None:
        return None
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} = {values!r:.60}; it must be a list of whole numbers, or None.")
    return tuple(whole(name, value, least) for value in values)


def _set(settings: object, values: Mapping[str, object]) -> None:
    """Set fields of a frozen object from its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value!r}; it must be {wanted}.")
