"""Thrift's compact protocol, as far as Parquet's headers and footers take it: writing only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STOP = b"\x00"


@dataclass(frozen=True)
class Value:
    """An encoded value and the number of its type."""

    kind: int
    data: bytes


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def i16(value: int) -> Value:
    """A number of 16 bits."""
    return Value(4, _zigzag(value))


def i32(value: int) -> Value:
    """A number of 32 bits."""
    return Value(5, _zigzag(value))


def i64(value: int) -> Value:
    """A number of 64 bits."""
    return Value(6, _zigzag(value))


def byte(value: int) -> Value:
    """A number of 8 bits."""
    return Value(3, value.to_bytes(1, "little", signed=True))


def boolean(value: bool) -> Value:
    """A flag of a struct: it is the type itself."""
    return Value(1 if value else 2, b"")


def binary(value: bytes | str) -> Value:
    """Bytes, or text in UTF-8."""
    data = value.encode() if isinstance(value, str) else value
    return Value(8, varint(len(data)) + data)


def listed(values: Sequence[Value]) -> Value:
    """A list of values of one type."""
    kind = values[0].kind
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else b""
    head = head or bytes([0xF0 | kind]) + varint(len(values))
    return Value(9, head + b"".join(value.data for value in values))


def record(fields: Mapping[int, Value]) -> Value:
    """A struct: values by field number, ascending."""
    parts, last = [], 0
    for number, value in fields.items():
        step = number - last
        head = bytes([step << 4 | value.kind]) if 0 < step < 16 else b""
        parts += [head or bytes([value.kind]) + _zigzag(number), value.data]
        last = number
    return Value(12, b"".join(parts) + STOP)


def _zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)
