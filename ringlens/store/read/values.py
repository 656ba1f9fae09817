"""Converts values of a query without loss: to Arrow for files, to text and JSON for people.

Arrow, Parquet, JSON and Python cannot hold every DuckDB type exactly: integers of 128 bits, times
of 24:00:00 or with a zone, infinite dates, bit strings, variants. So DuckDB itself casts these to
its own text, also inside lists, maps and structs, before they leave it. All forms of an answer are
made from these two projections and therefore agree.
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
MAX_DEPTH = 60
"""Levels of nested lists, maps and structs; Arrow reads 64."""
MAX_NAME = 500
"""Characters of a column's name; longer names are cut, and the cut is marked."""

_SMALL = {
    "null", "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint",
    "uinteger", "ubigint", "float", "double", "varchar",
}  # fmt: skip
"""Types that Arrow and JSON can hold; JSON has integers beyond `EXACT` and infinities as text."""

# Types that Arrow and Parquet can hold in addition. Left out: interval (Python and Parquet have
# none), uhugeint (exported as a signed number), time with time zone (exported without it), bit,
# bignum, variant and geometry (exported as DuckDB's own bytes), union, and types of later versions.
_NATIVE = _SMALL | {
    "hugeint", "decimal", "blob", "date", "time", "time_ns", "timestamp", "timestamp_ms",
    "timestamp_ns", "timestamp with time zone", "timestamptz_ns",
}  # fmt: skip
_LEAST = pa.scalar(Decimal(1 - 10**38), pa.decimal128(38, 0))
"""The smallest integer of 38 digits."""
_NORMAL = 2.0**-126
"""The smallest normal float32; below it fewer digits suffice."""
_NESTED = {"list", "array", "struct", "tuple", "map"}

Plain = Callable[[Any], Any]
"""Converts one value of the text projection to a value that JSON can hold."""


def names(relation: Any) -> list[str]:
    """Unique names of a relation's columns: two columns ``n`` become ``n`` and ``n_1``."""
    found: list[str] = []
    taken: set[str] = set()
    for name in relation.project("*").columns:
        short = name
        if len(name) > MAX_NAME:
            short = f"{name[:MAX_NAME]}… ({len(name):,} characters)"
        unique, more = short, 1
        while unique.lower() in taken:
            unique, more = f"{short}_{more}", more + 1
        taken.add(unique.lower())
        found.append(unique)
    return found


def native(kind: Any) -> str | None:
    """SQL type in which Arrow and Parquet can hold a DuckDB type; None if it needs no cast."""
    return _sql(kind, _NATIVE) if _differs(kind, _NATIVE) else None


def textual(kind: Any) -> str | None:
    """SQL type made of parts that JSON can hold and of text; None if the type needs no cast."""
    return _sql(kind, _SMALL) if _differs(kind, _SMALL) else None


def project(relation: Any, target: Callable[[Any], str | None]) -> Any:
    """Give a relation unique names and cast its columns to the types that ``target`` gives.

    Raises:
        StoreError: A type is nested too deeply.
    """
    casts = expressions(relation.types, target)
    parts = [f"{c} as {quoted(n)}" for c, n in zip(casts, names(relation), strict=True)]
    return relation.project(", ".join(parts))


def expressions(kinds: Sequence[Any], target: Callable[[Any], str | None]) -> list[str]:
    """SQL that casts each column of a relation to the type that ``target`` gives.

    Raises:
        StoreError: A type is nested too deeply.
    """
    for i, kind in enumerate(kinds, 1):
        if (found := depth(kind)) > MAX_DEPTH:
            raise StoreError(
                f"column {i} is nested {found} levels deep, the limit is {MAX_DEPTH}: flatten it "
                f"in the query"
            )
    targets = [target(kind) for kind in kinds]
    return [f"#{i}" if t is None else f"cast(#{i} as {t})" for i, t in enumerate(targets, 1)]


def depth(kind: Any) -> int:
    """Number of nested levels of lists, maps and structs in a type; 0 for a plain type."""
    deepest, waiting = 0, [(kind, 0)]
    while waiting:
        each, level = waiting.pop()
        deepest = max(deepest, level)
        if each.id in _NESTED:
            waiting.extend((child, level + 1) for child in _children(each))
    return deepest


def leaves(kind: Any) -> set[str]:
    """Names of the plain types inside a type."""
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
    """Function that converts values of one type of the text projection to values for JSON.

    Numbers, booleans and null stay as they are; integers beyond `EXACT` and floats that are not
    finite become text; everything else is DuckDB's text already. A map becomes a list of pairs.
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
    """Convert an integer, or its text, for JSON: a number up to `EXACT`, else text."""
    if value is None or (isinstance(value, str) and len(value) > 17):
        return value
    number = int(value)
    return number if -EXACT < number < EXACT else str(number)


def finite(value: float | None) -> float | str | None:
    """Convert a float for JSON: "nan", "inf" and "-inf" become text."""
    return value if value is None or math.isfinite(value) else str(value)


def single(value: float | None) -> float | str | None:
    """Shorten a float32 to the digits that identify it: 0.1, not 0.10000000149011612."""
    if value is None or not math.isfinite(value):
        return finite(value)
    for digits in range(6 if abs(value) > _NORMAL else 1, 9):
        short = float(f"{value:.{digits}g}")
        if _rounded(short) == value:
            return short
    return float(f"{value:.9g}")


def as_json(value: Any) -> str:
    """Format a nested value that `plain` has converted as JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_column(column: pa.ChunkedArray | pa.Array, kind: Any) -> pa.Array:
    """Format a nested column of the text projection as strings of JSON."""
    make = plain(kind)
    texts = [None if v is None else as_json(make(v)) for v in column.to_pylist()]
    return pa.array(texts, pa.string())


def is_sound(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether Arrow holds a column's values correctly: no 39 digits, no 24:00:00."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return not any(_is_least(part) for chunk in chunks for part in parts(chunk))


def _is_least(array: pa.Array) -> bool:
    """Whether an array holds -2¹²⁷, whose 39 digits Arrow's own validation misses."""
    if array.type != _LEAST.type:
        return False
    return bool(pc.any(pc.less(array, _LEAST)).as_py())


def quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _children(kind: Any) -> list[Any]:
    """Types inside a nested type, without the size that DuckDB lists as a child of an array."""
    found = [child for _, child in kind.children]
    return found[:1] if kind.id == "array" else found


def _differs(kind: Any, kept: set[str]) -> bool:
    """Whether a type, or a type inside it, is not among those that are kept."""
    name = kind.id
    if name not in _NESTED or not kind.children:
        return name not in kept
    if name == "tuple" or (name == "map" and _children(kind)[0].id == "null"):
        return True
    return any(_differs(child, kept) for child in _children(kind))


def _sql(kind: Any, kept: set[str]) -> str:
    """SQL type in which all parts that are not kept are text."""
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
    """Round to the nearest float32."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.inf
