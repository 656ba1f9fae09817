"""Fields of JSON that comes from outside: checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringlens.errors import ServingError

Json = Mapping[str, Any]


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
