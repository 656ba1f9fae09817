"""Values of a query in forms that hold them exactly: Arrow for files, text and JSON for people.

DuckDB has types that Arrow, Parquet, JSON and Python hold only in part or wrongly: integers of 128
bits, times of 24:00:00 or with a zone, infinite dates, bit strings, variants. Here DuckDB itself
casts them to its own text before they leave it, also inside lists, maps and structs. All forms of
an answer are made from these two projections, so they all say the same.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ringlens.errors import StoreError
from ringlens.store.read.extent import parts

EXACT = 2**53
"""Integers up to here are numbers in JSON; JavaScript cannot tell larger ones apart."""
DEEPEST = 60
"""Levels of lists, maps and structs inside each other; Arrow reads 64."""
LONGEST_NAME = 500
"""Characters of a column's name; the rest is cut, and the cut is marked."""

_SMALL = {
    "null", "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint",
    "uinteger", "ubigint", "float", "double", "varchar",
}  # fmt: skip
"""Types that Arrow and JSON hold: integers beyond `EXACT` and infinite floats as text."""

# What Arrow and Parquet hold besides. Not in it: interval (Python and Parquet have none), uhugeint
# (exported as a signed number), time with time zone (exported without), bit, bignum, variant and
# geometry (exported as DuckDB's own bytes), union, and whatever later versions bring.
_NATIVE = _SMALL | {
    "hugeint", "decimal", "blob", "date", "time", "time_ns", "timestamp", "timestamp_ms",
    "timestamp_ns", "timestamp with time zone", "timestamptz_ns",
}  # fmt: skip
_LEAST = pa.scalar(Decimal(1 - 10**38), pa.decimal128(38, 0))
"""The least integer of 38 digits."""
_NORMAL = 2.0**-126
"""The smallest float32 of full precision."""
_NESTED = {"list", "array", "struct", "tuple", "map"}

Plain = Callable[[Any], Any]
"""Makes of one value of the text projection what JSON holds."""


def names(relation: Any) -> list[str]:
    """The columns' names, each once: DuckDB makes ``n``, ``n_1`` of two that are called ``n``."""
    found: list[str] = []
    taken: set[str] = set()
    for name in relation.project("*").columns:
        short = name
        if len(name) > LONGEST_NAME:
            short = f"{name[:LONGEST_NAME]}… ({len(name):,} characters)"
        unique, more = short, 1
        while unique.lower() in taken:
            unique, more = f"{short}_{more}", more + 1
        taken.add(unique.lower())
        found.append(unique)
    return found


def native(kind: Any) -> str | None:
    """SQL of the type that Arrow and Parquet hold a DuckDB type's values in; None if it is that."""
    return _sql(kind, _NATIVE) if _differs(kind, _NATIVE) else None


def textual(kind: Any) -> str | None:
    """SQL of the type whose parts JSON holds or are DuckDB's text; None if it is that type."""
    return _sql(kind, _SMALL) if _differs(kind, _SMALL) else None


def project(relation: Any, target: Callable[[Any], str | None]) -> Any:
    """A relation with unique names and its columns cast to what ``target`` says.

    Raises:
        StoreError: A type is nested too deeply.
    """
    casts = expressions(relation.types, target)
    parts = [f"{c} as {quoted(n)}" for c, n in zip(casts, names(relation), strict=True)]
    return relation.project(", ".join(parts))


def expressions(kinds: Sequence[Any], target: Callable[[Any], str | None]) -> list[str]:
    """SQL of each column of a relation cast to what ``target`` says.

    Raises:
        StoreError: A type is nested too deeply.
    """
    for i, kind in enumerate(kinds, 1):
        if (found := depth(kind)) > DEEPEST:
            raise StoreError(
                f"column {i} is nested {found} lists deep, and {DEEPEST} are the most: flatten it "
                f"in the query"
            )
    targets = [target(kind) for kind in kinds]
    return [f"#{i}" if t is None else f"cast(#{i} as {t})" for i, t in enumerate(targets, 1)]


def depth(kind: Any) -> int:
    """How deeply lists, maps and structs are nested in a type: 0 for a plain one."""
    deepest, waiting = 0, [(kind, 0)]
    while waiting:
        each, level = waiting.pop()
        deepest = max(deepest, level)
        if each.id in _NESTED:
            waiting.extend((child, level + 1) for child in _children(each))
    return deepest


def leaves(kind: Any) -> set[str]:
    """The names of the types that a type is made of, without lists, maps and structs."""
    found: set[str] = set()
    waiting = [kind]
    while waiting:
        each = waiting.pop()
        if is_nested(each):
            waiting.extend(_children(each))
        else:
            found.add(str(each.id))
    return found


def is_nested(kind: Any) -> bool:
    """Whether a DuckDB type is a list, map or struct."""
    return kind.id in _NESTED and bool(kind.children)


def plain(kind: Any) -> Plain:
    """What turns values of one DuckDB type, read from the text projection, into JSON's values.

    Numbers, booleans and null stay as they are; integers beyond `EXACT` and floats that are not
    finite become text; all else is DuckDB's text already. A map becomes a list of pairs.
    """
    name = kind.id
    if name == "float":
        return single
    if name == "double":
        return finite
    if name in ("bigint", "ubigint", "hugeint", "uhugeint", "bignum"):
        return integer
    if name in ("list", "array"):
        inner = plain(_children(kind)[0])
        return lambda value: None if value is None else [inner(each) for each in value]
    if name == "map":
        key, item = (plain(child) for child in _children(kind))
        return lambda value: None if value is None else [[key(k), item(v)] for k, v in value]
    if name in ("struct", "tuple") and kind.children:
        parts = [plain(child) for child in _children(kind)]
        return lambda value: (
            None
            if value is None
            else {k: part(v) for (k, v), part in zip(value.items(), parts, strict=True)}
        )
    return lambda value: value


def integer(value: int | str | None) -> int | str | None:
    """A whole number, or its text, as JSON holds it: a number up to `EXACT`, else text."""
    if value is None or (isinstance(value, str) and len(value) > 17):
        return value
    number = int(value)
    return number if -EXACT < number < EXACT else str(number)


def finite(value: float | None) -> float | str | None:
    """A float as JSON holds it: "nan", "inf" and "-inf" are text."""
    return value if value is None or math.isfinite(value) else str(value)


def single(value: float | None) -> float | str | None:
    """A float32 with the digits that tell it from its neighbours: 0.1, not 0.10000000149011612."""
    if value is None or not math.isfinite(value):
        return finite(value)
    for digits in range(6 if abs(value) > _NORMAL else 1, 9):
        short = float(f"{value:.{digits}g}")
        if _rounded(short) == value:
            return short
    return float(f"{value:.9g}")


def as_json(value: Any) -> str:
    """A nested value as JSON; the argument is what `plain` gives."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_column(column: pa.ChunkedArray | pa.Array, kind: Any) -> pa.Array:
    """A nested column of the text projection as JSON texts."""
    make = plain(kind)
    texts = [None if v is None else as_json(make(v)) for v in column.to_pylist()]
    return pa.array(texts, pa.string())


def is_sound(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether Arrow's types hold a column's values: no 39 digits, no 24:00:00."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return not any(_is_least(part) for chunk in chunks for part in parts(chunk))


def _is_least(array: pa.Array) -> bool:
    """Whether an array holds -2¹²⁷, whose 39 digits Arrow's own check passes over."""
    if array.type != _LEAST.type:
        return False
    return bool(pc.any(pc.less(array, _LEAST)).as_py())


def quoted(name: str) -> str:
    """A name as SQL holds it."""
    return '"' + name.replace('"', '""') + '"'


def _children(kind: Any) -> list[Any]:
    """The types inside a nested type; the size of an array is none."""
    found = [child for _, child in kind.children]
    return found[:1] if kind.id == "array" else found


def _differs(kind: Any, kept: set[str]) -> bool:
    """Whether a type, or one inside it, is none of those that are kept."""
    name = kind.id
    if name not in _NESTED or not kind.children:
        return name not in kept
    if name == "tuple" or (name == "map" and _children(kind)[0].id == "null"):
        return True
    return any(_differs(child, kept) for child in _children(kind))


def _sql(kind: Any, kept: set[str]) -> str:
    """SQL of a type with all parts that are not kept as text."""
    name = kind.id
    if name in kept and name not in ("null", "varchar"):
        return str(kind)
    if name == "timestamp_s" and "timestamp_ms" in kept:
        return "TIMESTAMP_MS"  # Parquet has no seconds
    if name not in _NESTED or not kind.children:
        return "VARCHAR"
    parts = [_sql(child, kept) for child in _children(kind)]
    if name == "list":
        return f"{parts[0]}[]"
    if name == "array":
        return f"{parts[0]}[{kind.children[1][1]}]"
    if name == "map":
        return f"MAP({parts[0]}, {parts[1]})"
    labels = [label or f"element{i}" for i, (label, _) in enumerate(kind.children, 1)]
    return f"STRUCT({', '.join(f'{quoted(n)} {t}' for n, t in zip(labels, parts, strict=True))})"


def _rounded(value: float) -> float:
    """The nearest float32."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf
