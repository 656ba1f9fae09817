"""JSON from outside, read strictly: what is no JSON, unclear or unusable is refused.

Python's own reader keeps the last of two values of one name, takes NaN and infinities for numbers,
and makes texts that cannot be written again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator
from functools import partial
from typing import Any

from ringlens.errors import RinglensError
from ringlens.plain import half_pair

DEEPEST = 100
"""Levels of nesting at most; what servers answer and checkpoints hold has about ten."""


def parsed(
    text: str,
    place: str,
    error: type[RinglensError],
    *,
    advice: str = "",
    deepest: int = DEEPEST,
    alike: bool = False,
) -> Any:
    """The JSON of a text.

    Args:
        text: The text; whoever reads it bounds its size.
        place: Where it stands, as messages name it: a file, a line, an address.
        error: What to raise.
        advice: A sentence for the end of the message: what to do.
        deepest: Levels of nesting at most.
        alike: Accept a name that stands twice in an object with the same text, number, bool or
            null.

    Raises:
        RinglensError: ``error``: it is no JSON, is nested too deeply, names one thing twice in an
            object, or holds NaN, an infinity, a number beyond float64 or half of a surrogate pair.
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=partial(_object, alike),
            parse_constant=_constant,
            parse_float=_float,
        )
        _check_depth(found, deepest)
        if "\\ud" in text or "\\uD" in text:  # in a str, halves come by escapes only
            _check_texts(found)
    except RecursionError as wrong:
        raise error(_message(place, f"nested more than {deepest} levels deep", advice)) from wrong
    except ValueError as wrong:
        raise error(_message(place, str(wrong), advice)) from wrong
    return found


def parsed_object(
    text: str, place: str, error: type[RinglensError], *, advice: str = "", alike: bool = False
) -> dict[str, Any]:
    """The JSON object of a text; arguments and refusals are those of `parsed`.

    Raises:
        RinglensError: ``error``: also for other JSON than an object.
    """
    found = parsed(text, place, error, advice=advice, alike=alike)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise error(f"{place}: expected a JSON object, found {kind}. {advice}".rstrip())
    return found


def _message(place: str, why: str, advice: str) -> str:
    return f"{place}: not JSON ({why[:200]}). {advice}".rstrip()


def _object(alike: bool, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    first: dict[str, Any] = {}
    for name, value in pairs:
        if name in first and not (alike and _same(first[name], value)):
            raise ValueError(f"{name[:80]!r} stands twice in one object")
        first.setdefault(name, value)
    return found


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and isinstance(a, Hashable) and a == b


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _float(digits: str) -> float:
    found = float(digits)
    if math.isinf(found):
        raise ValueError(f"{digits[:40]} is beyond float64")
    return found


def _check_depth(found: Any, deepest: int) -> None:
    """Refuse what is nested so deeply that later readers would run out of stack."""
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(deepest):
        level = [
            each
            for node in level
            for each in (node.values() if isinstance(node, dict) else node)
            if isinstance(each, dict | list)
        ]
    if level:
        raise ValueError(f"nested more than {deepest} levels deep")


def _check_texts(found: Any) -> None:
    """Refuse halves of surrogate pairs, naming what holds them."""
    for name, text in _texts(found):
        if wrong := half_pair(text):
            raise ValueError(f"{name!r:.80} holds {wrong}" if name else f"it holds {wrong}")


def _texts(found: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts, each with the name of the nearest value of an object around it."""
    if isinstance(found, str):
        yield name, found
    elif isinstance(found, list):
        for each in found:
            yield from _texts(each, name)
    elif isinstance(found, dict):
        for key, each in found.items():
            yield "", key
            yield from _texts(each, key)
