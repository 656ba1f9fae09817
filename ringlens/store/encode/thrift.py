"""Writes the subset of Thrift's compact protocol that Parquet's headers and footers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STOP = b"\x00"


@dataclass(frozen=True)
class Value:
    """An encoded value and the number of its Thrift type."""

    kind: int
    data: bytes


def varint(value: int) -> bytes:
    """Encode an unsigned number, seven bits per byte, lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def i16(value: int) -> Value:
    """Encode a number of 16 bits."""
    return Value(4, _zigzag(value))


def i32(value: int) -> Value:
    """Encode a number of 32 bits."""
    return Value(5, _zigzag(value))


def i64(value: int) -> Value:
    """Encode a number of 64 bits."""
    return Value(6, _zigzag(value))


def byte(value: int) -> Value:
    """Encode a number of 8 bits."""
    return Value(3, value.to_bytes(1, "little", signed=True))


def boolean(value: bool) -> Value:
    """Encode a flag in a struct, where the type itself is the value."""
    return Value(1 if value else 2, b"")


def binary(value: bytes | str) -> Value:
    """Encode bytes, or text in UTF-8."""
    data = value.encode() if isinstance(value, str) else value
    return Value(8, varint(len(data)) + data)


def listed(values: Sequence[Value]) -> Value:
    """Encode a list of values of one type."""
    kind = values[0].kind
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else b""
    head = head or bytes([0xF0 | kind]) + varint(len(values))
    return Value(9, head + b"".join(value.data for value in values))


def record(fields: Mapping[int, Value]) -> Value:
    """Encode a struct from values by ascending field number."""
    parts, last = [], 0
    for number, value in fields.items():
        step = number - last
        head = bytes([step << 4 | value.kind]) if 0 < step < 16 else b""
        parts += [head or bytes([value.kind]) + _zigzag(number), value.data]
        last = number
    return Value(12, b"".join(parts) + STOP)


def _zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)
