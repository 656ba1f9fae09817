"""JSON of servers and of saved responses: read strictly, its fields checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringlens import strict_json
from ringlens.errors import ServingError

Json = Mapping[str, Any]

STREAM = (
    "it is a stream, and streams carry no routing in one piece: ask with stream=false and save the "
    "whole response"
)


def parsed(place: str, text: str) -> Any:
    """The JSON of a text.

    Raises:
        ServingError: It is a stream, or not strict JSON (`strict_json.parsed`).
    """
    if text.lstrip().startswith(("data:", "event:", ": ")):
        raise ServingError(f"{place}: {STREAM}")
    return strict_json.parsed(text, place, ServingError)


def field_of(row: Json, name: str, kind: type, place: str, default: Any = ...) -> Any:
    """A field of a type; ``default`` (if there is one) where it is missing or null.

    Raises:
        ServingError: It is of another type.
    """
    value = row.get(name)
    if value is None and default is not ...:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ServingError(f"{place}: {name} is {value!r:.60}, not of type {kind.__name__}")
    return value


def ids_of(row: Json, name: str, place: str) -> list[int] | None:
    """Token ids; None where there are none.

    Raises:
        ServingError: It is something else.
    """
    value = field_of(row, name, list, place, None)
    if value is not None and not all(type(token) is int for token in value):
        raise ServingError(f"{place}: {name} holds something that is no token id")
    return value
