"""Values of Python as JSON in one form for all that are equal: 1, 1.0 and True are 1.

So what a program computed is compared without reading code or literals that it wrote: nothing of it
is parsed but JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEEPEST = 50
"""Levels of nesting; what is nested more deeply equals nothing."""


def encoded(value: Any, depth: int = 0) -> Any:
    """A value as JSON; values are equal where these are.

    What is no number, text, bytes, None, or list, tuple, set or dict of such is named by its type
    and equals no value that a test can state.
    """
    if depth > DEEPEST:
        return ["nested", depth]
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | complex | Fraction | Decimal):
        return _number(value)
    if isinstance(value, bytes | bytearray):
        return ["bytes", value.hex()]
    if isinstance(value, list):
        return ["list", [encoded(each, depth + 1) for each in value]]
    if isinstance(value, tuple):
        return ["tuple", [encoded(each, depth + 1) for each in value]]
    if isinstance(value, set | frozenset):
        return ["set", _sorted(encoded(each, depth + 1) for each in value)]
    if isinstance(value, dict):
        items = ([encoded(k, depth + 1), encoded(v, depth + 1)] for k, v in value.items())
        return ["dict", _sorted(items)]
    return ["other", type(value).__name__]


def _number(value: Any) -> Any:
    if isinstance(value, complex):
        real, imaginary = _number(value.real), _number(value.imag)
        return real if imaginary == ["int", "0x0"] else ["complex", real, imaginary]
    if not isinstance(value, bool | int) and not math.isfinite(value):
        return ["float", str(float(value))]
    if value == int(value):
        return ["int", hex(int(value))]
    exact = float(value)
    return ["float", exact.hex()] if exact == value else ["other", type(value).__name__]


def _sorted(items: Iterable[Any]) -> list[Any]:
    return sorted(items, key=lambda each: json.dumps(each, sort_keys=True))
