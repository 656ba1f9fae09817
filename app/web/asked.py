"""What a browser sends, made sure of before anything is done with it.

Every wrong value is a `RequestError` that names it; the server answers it with status 400.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ringlens.errors import RequestError

LARGEST = 2**63 - 1
"""The largest integer of a table."""

DEEPEST = 24
"""How far what a page sends may be nested: its own is 8 deep."""

LONGEST = 100_000
"""Characters of a text."""


def whole(text: str) -> int | None:
    """A whole number of an address that a table can hold, or None: it then names nothing."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    return int(text) if int(text) <= LARGEST else None


def parsed(body: bytes) -> Any:
    """JSON as Python values, bounded in depth; texts are such that can be written as UTF-8."""
    try:
        found = json.loads(body, parse_constant=_no_number)
    except RequestError:
        raise
    except RecursionError:
        raise RequestError(f"the request's JSON is nested deeper than {DEEPEST}") from None
    except ValueError as error:  # no JSON, no UTF-8, or an integer of thousands of digits
        raise RequestError(f"the request is no JSON: {error}") from None
    _checked(found)
    return found


def _no_number(name: str) -> None:
    raise RequestError(f"the request holds {name}, which is no number of JSON")


def _checked(value: Any) -> None:
    """Raise for what is nested too deeply, too large an integer, or no text."""
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                below += each
            else:
                _scalar(each)
        if not below:
            return
        level = below
    raise RequestError(f"the request's JSON is nested deeper than {DEEPEST}")


def _scalar(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RequestError("a text of the request holds half a character") from None
    elif isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        raise RequestError(f"a number of the request needs more than 64 bits: {str(value)[:30]}…")


def mapping(value: Any, what: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be an object, not {shown(value)}")
    return value


def text(value: Any, what: str) -> str:
    """A text, not too long; none is an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST:
        raise RequestError(f"{what} must be a text of at most {LONGEST:,}, not {shown(value)}")
    return value


def one_of(value: Any, known: Collection[str] | Mapping[str, Any], what: str) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in known:
        raise RequestError(f"{what} must be one of {', '.join(known)}, not {shown(value)}")
    return value


def number_in(value: Any, known: Iterable[int], what: str) -> int:
    """One of some whole numbers."""
    if not isinstance(value, int) or isinstance(value, bool) or value not in known:
        raise RequestError(f"there is no {what} {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value as a message names it."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:60]}…"
