"""JSON from outside: read strictly, so that nothing in it is changed or dropped in silence."""

from __future__ import annotations

import json
from typing import Any

from ringlens.errors import ServingError

STREAM = (
    "it is a stream, and streams carry no routing in one piece: ask with stream=false and save the "
    "whole response"
)

DEEPEST = 100
"""Levels of nesting at most; answers of servers have about ten."""


def parsed(place: str, text: str) -> Any:
    """The JSON of a text.

    Raises:
        ServingError: It is a stream, no JSON, nested too deeply, names one thing twice in an
            object, or holds half of a surrogate pair, which is no text.
    """
    if text.lstrip().startswith(("data:", "event:", ": ")):
        raise ServingError(f"{place}: {STREAM}")
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        if "\\ud" in text or "\\uD" in text:  # such halves come by escapes only
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ServingError(f"{place}: not JSON ({str(error)[:100]})") from error
    _check_depth(place, found)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; Python's own reader keeps the last of two values of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice!r:.60} stands twice in one object")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check_depth(place: str, found: Any) -> None:
    """Refuse what is nested so deeply that later readers would run out of stack."""
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(DEEPEST):
        children = (node.values() if isinstance(node, dict) else node for node in level)
        level = [x for child in children for x in child if isinstance(x, dict | list)]
    if level:
        raise ServingError(f"{place}: nested more than {DEEPEST} levels deep")
