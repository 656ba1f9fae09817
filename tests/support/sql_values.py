"""Expressions over every type of DuckDB, most of them at the edges of what their type holds."""

import string

INTEGERS = {
    "tinyint": (-(2**7), 2**7 - 1),
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
    "hugeint": (-(2**127), 2**127 - 1),
    "utinyint": (0, 2**8 - 1),
    "usmallint": (0, 2**16 - 1),
    "uinteger": (0, 2**32 - 1),
    "ubigint": (0, 2**64 - 1),
    "uhugeint": (0, 2**128 - 1),
    "bignum": (-(10**80), 10**80),
}
LETTERS = [
    "a", "B", " ", "'", '"', "\\", ",", "|", "\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x9b", "é",
    "😀", "\u202e", "\u2028", "\ufeff", "<b>", "&", "{", "[", "=", "NULL", "nan", "%", "\u0301",
]  # fmt: skip
_MOMENTS = ("infinity", "-infinity", "epoch", "1969-12-31", "0001-01-01", "9999-12-31")
_OTHERS = {
    "json": ("{\"a\": [1, 2e400, \"x\"]}", "null", "[]", "12345678901234567890"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "bit": ("0", "1", "1010101", "0" * 65),
    "enum('a', 'b''c', '')": ("a", "b'c", ""),
    "geometry": ("POINT (1 2)", "LINESTRING (0 0, 1 1)", "POINT EMPTY"),
    "time": ("00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.5"),
    "time_ns": ("00:00:00", "24:00:00", "23:59:59.999999999"),
    "timetz": ("24:00:00+15:59:59", "00:00:00-15:59:59", "12:00:00.25+05:30"),
    "boolean": ("true", "false"),
    "date": (*_MOMENTS, "5877642-06-25 (BC)", "5881580-07-10", "0044-03-15 (BC)", "12345-01-02"),
    "timestamp": (*_MOMENTS, "290308-12-22 (BC) 00:00:00", "294247-01-10 04:00:54.775806"),
    "timestamptz": (*_MOMENTS, "2020-02-30"[:8] + "29 12:00:00+14", "290000-01-01 00:00:00+00"),
    "timestamp_s": (*_MOMENTS, "290000-01-01 00:00:00"),
    "timestamp_ms": (*_MOMENTS, "290000-01-01 00:00:00.001"),
    "timestamp_ns": ("infinity", "-infinity", "2262-04-11 23:47:16.854775806", "1677-09-22"),
    "timestamptz_ns": ("2020-01-01 00:00:00.123456789+02", "1970-01-01"),
    "interval": (
        "0 seconds", "-1 month 1 day -00:00:00.000001", "2147483647 months", "9999999 hours",
        "-2147483648 days", "178000000 years", "1 year 2 months 3 days 04:05:06.789",
    ),
}  # fmt: skip
_DOUBLES = (
    "0", "-0.0", "nan", "inf", "-inf", "0.1", "5e-324", "1.7976931348623157e308", "1e15", "1e16",
    "1e22", "9007199254740993", "-1e-7", "0.30000000000000004",
)  # fmt: skip
_FLOATS = ("0", "-0.0", "nan", "-inf", "0.1", "1e-45", "3.4028235e38", "16777217", "1e10", "0.3")


def leaf(rng):
    """A value of a type without parts, as SQL; and the type."""
    kind = rng.choice(
        [*INTEGERS, *_OTHERS, "decimal", "double", "float", "varchar", "blob", "null"]
    )
    if rng.random() < 0.05:
        return f"null::{kind}" if kind not in ("decimal", "null") else "null", kind
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        near = (low, high, 0, 2**53, 2**53 - 1, -(2**53), 10**38, 10**38 - 1, -(10**38))
        value = rng.choice([*[n for n in near if low <= n <= high], rng.randint(low, high)])
        return f"'{value}'::{kind}", kind
    if kind == "decimal":
        digits = rng.randint(1, 38)
        scale = rng.randint(0, digits)
        whole = rng.choice((0, 1, 10**digits - 1, rng.randrange(10**digits)))
        text = f"{rng.choice(('', '-'))}{whole:0{scale + 1}d}"
        text = f"{text[: len(text) - scale]}.{text[len(text) - scale :]}" if scale else text
        return f"'{text}'::decimal({digits}, {scale})", kind
    if kind in ("double", "float"):
        drawn = repr(rng.uniform(-1, 1) * 10 ** rng.randint(-30, 30))
        return (
            f"'{rng.choice([*(_DOUBLES if kind == 'double' else _FLOATS), drawn])}'::{kind}",
            kind,
        )
    if kind == "varchar":
        return written("".join(rng.choices(LETTERS, k=rng.randint(0, 6)))), kind
    if kind == "blob":
        return f"unhex('{rng.randbytes(rng.randint(0, 6)).hex()}')", kind
    if kind == "null":
        return "null", kind
    value = rng.choice(_OTHERS[kind]).replace("'", "''")
    return f"'{value}'::{kind}", kind


def written(text):
    """A text as SQL; what a query cannot hold is built by number."""
    plain = string.ascii_letters + string.digits + " <>&{}[]=%|,.-_:;!?()"
    parts = [f"'{c}'" if c in plain else f"chr({ord(c)})" for c in text]
    return f"({' || '.join(parts)})" if parts else "''"


def nested(rng, level=0):
    """A value with parts: its SQL, and its shape with the SQL of each part in it."""
    if level == 3 or rng.random() < 0.3:
        sql, _ = leaf(rng)
        return sql, sql
    form = rng.choice(("list", "struct", "map", "tuple", "array"))
    if form in ("list", "array"):
        sql, shape = nested(rng, level + 1)
        count = rng.randint(1, 3)
        size = f"::{{}}[{count}]" if form == "array" else ""
        whole = f"[{', '.join([sql] * count)}]"
        return (f"array_value({whole[1:-1]})" if size else whole), [shape] * count
    if form == "map":
        key, _ = leaf(rng)
        while key.startswith("null"):
            key, _ = leaf(rng)
        sql, shape = nested(rng, level + 1)
        return f"map([{key}], [{sql}])", [[key, shape]]
    parts = [nested(rng, level + 1) for _ in range(rng.randint(1, 3))]
    if form == "tuple":
        sql = f"row({', '.join(part for part, _ in parts)})"
        return sql, {f"element{i}": shape for i, (_, shape) in enumerate(parts, 1)}
    names = rng.sample(["a", "b c", 'd"e', "é", "f'g", "\n"], len(parts))
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    sql = ", ".join(f"{name} := {part}" for name, (part, _) in zip(quoted, parts, strict=True))
    return f"struct_pack({sql})", {n: shape for n, (_, shape) in zip(names, parts, strict=True)}
