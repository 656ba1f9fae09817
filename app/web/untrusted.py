"""Checks what a browser sends before it is used.

A wrong value raises `RequestError`, which names it; the server answers with status 400.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ringlens import strict_json
from ringlens.errors import RequestError

LARGEST = 2**63 - 1
"""The largest integer of a table."""

DEEPEST = 24
"""Levels of nesting of JSON at most; what our pages send has 8."""

LONGEST = 100_000
"""Characters of a text."""


def whole(text: str) -> int | None:
    """Read a whole number that a table can hold; None for other text, which names nothing."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    return int(text) if int(text) <= LARGEST else None


def parsed(body: bytes) -> Any:
    """Read JSON strictly: bounded in depth, of integers that a table can hold.

    Raises:
        RequestError: It is no such JSON.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"the request is not JSON: it is not UTF-8 ({error})") from None
    found = strict_json.parsed(text, "the request", RequestError, deepest=DEEPEST)
    _check_integers(found)
    return found


def _check_integers(found: Any) -> None:
    level: list[Any] = [found]
    while level:
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict | list):
                below += each.values() if isinstance(each, dict) else each
            elif isinstance(each, int) and not -LARGEST - 1 <= each <= LARGEST:
                raise RequestError(
                    f"a number of the request needs more than 64 bits: {str(each)[:30]}…"
                )
        level = below


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Return an object, or raise."""
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be an object, not {shown(value)}")
    return value


def text(value: Any, what: str) -> str:
    """Return a text that is not too long, or raise; None becomes an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > LONGEST:
        raise RequestError(f"{what} must be a text of at most {LONGEST:,}, not {shown(value)}")
    return value


def one_of(value: Any, known: Collection[str] | Mapping[str, Any], what: str) -> str:
    """Return one of the known names, or raise."""
    if not isinstance(value, str) or value not in known:
        raise RequestError(f"{what} must be one of {', '.join(known)}, not {shown(value)}")
    return value


def number_in(value: Any, known: Iterable[int], what: str) -> int:
    """Return one of the known whole numbers, or raise."""
    if not isinstance(value, int) or isinstance(value, bool) or value not in known:
        raise RequestError(f"there is no {what} {shown(value)}")
    return value


def shown(value: Any) -> str:
    """Format a value for a message."""
    found = repr(value)
    return found if len(found) <= 60 else f"{found[:60]}…"
