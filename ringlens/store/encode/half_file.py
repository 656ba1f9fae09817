"""A Parquet file of lists of floats that fp16 holds exactly, written nearly as fast as raw fp16.

pyarrow spends its time on the levels of the lists, on splitting bytes and on zstd: 9 ns a float.
Parquet can hold fp16 as it lies in memory and in plain sight of every reader: with a dictionary of
the 65,536 values of fp16, as floats, the 16 bits of a value are its index, and indices of 16 bits
are packed as they are. Rows that fp16 does not hold stand in plain pages between the others. That
costs 2 to 3 ns a float, and a sixth more room than zstd's work leaves; compaction gives it back.

Byte planes of fp16 in two binary columns, the other fast way, would be floats only in connections
that ringlens opens, and are slower: 10,100 tokens a second of Ring-1T on four cores of a Xeon, with
their routing, against 12,900 of this and 8,000 of pyarrow (`benchmarks/bench_logits.py`).

Shape letters: R rows, E floats a row.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.encode import thrift
from ringlens.store.encode.thrift import Value, binary, i16, i32, i64, listed, record, varint
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet

WORTH = 2**20
"""Floats from which on the dictionary, 50 kB in every row group, is worth it."""

PAGE_ROWS = 2_048

MAGIC = b"PAR1"
# Numbers of parquet.thrift.
DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8
ZSTD = 6
REQUIRED, REPEATED = 0, 2
LIST, UINT_16 = 3, 12
INT32, INT64, FLOAT = 1, 2, 4
NUMBERS = {
    pa.int64(): (INT64, "<i8"),
    pa.int32(): (INT32, "<i4"),
    pa.uint16(): (INT32, "<i4"),
}


@dataclass(frozen=True)
class Page:
    """A page: its kind, encoding and number of values, its bytes before and after compression."""

    kind: int
    encoding: int
    values: int
    raw: int
    body: pa.Buffer

    @classmethod
    def of(cls, kind: int, encoding: int, values: int, data: bytes | NDArray, level: int) -> Page:
        """A page of some bytes, compressed at a level of zstd."""
        raw = pa.py_buffer(data)
        body = pa.Codec("zstd", compression_level=level).compress(raw)
        return cls(kind, encoding, values, raw.size, body)

    def header(self) -> bytes:
        """What stands before it in the file."""
        check = zlib.crc32(self.body)
        facts = {1: i32(self.kind), 2: i32(self.raw), 3: i32(self.body.size)}
        facts[4] = i32(check - 2**32 if check >= 2**31 else check)
        values, encoding = i32(self.values), i32(self.encoding)
        if self.kind == DICTIONARY_PAGE:
            facts[7] = record({1: values, 2: encoding})
        else:
            facts[5] = record({1: values, 2: encoding, 3: i32(RLE), 4: i32(RLE)})
        return record(facts).data


def write(path: Path, table: Table, groups: Iterable[pa.RecordBatch]) -> int:
    """Write a file as `parquet.write` does: other bytes, the same rows.

    Returns:
        Rows written.

    Raises:
        OSError: The disk is full, read-only or broken. A part of the file may be left.
    """
    rows = 0
    with path.open("wb") as handle:
        file = HalfFile(handle, table.arrow)
        for batch in groups:
            file.write(batch)
            rows += batch.num_rows
        file.close()
    parquet.flush(path)
    return rows


class HalfFile:
    """Writes row groups of numbers and, last, one list of floats of one length.

    Args:
        file: Where to.
        arrow: The columns.
    """

    def __init__(self, file: BinaryIO, arrow: pa.Schema) -> None:
        self._file, self._arrow = file, arrow
        self._at, self._rows = 0, 0
        self._groups: list[Value] = []
        self._put(MAGIC)

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one row group."""
        start = self._at
        *numbers, lists = zip(self._arrow, batch.columns, strict=True)
        chunks = [
            self._chunk([f.name], NUMBERS[f.type][0], _number_pages(f, c)) for f, c in numbers
        ]
        facts = [facts | {12: _range(c)} for (_, c), facts in zip(numbers, chunks, strict=True)]
        path = [lists[0].name, "list", "element"]
        facts.append(self._chunk(path, FLOAT, _list_pages(lists[1])))
        columns = [record({2: i64(0), 3: record(dict(sorted(each.items())))}) for each in facts]
        size = i64(self._at - start)
        ordinal = i16(len(self._groups))
        self._groups.append(
            record({1: listed(columns), 2: size, 3: i64(len(batch)), 6: size, 7: ordinal})
        )
        self._rows += len(batch)

    def close(self) -> None:
        """Write the footer."""
        order = record({1: record({})})  # by type
        footer = record(
            {
                1: i32(2),
                2: listed(_schema(self._arrow)),
                3: i64(self._rows),
                4: listed(self._groups),
                6: binary("ringlens"),
                7: listed([order] * len(self._arrow)),
            }
        ).data
        self._put(footer)
        self._put(struct.pack("<I", len(footer)) + MAGIC)

    def _chunk(self, path: list[str], kind: int, pages: Iterator[Page]) -> dict[int, Value]:
        """Write the pages of a column; what the footer says of them."""
        start, first_data, raw, values = self._at, 0, 0, 0
        encodings = {RLE}
        for page in pages:
            if page.kind == DATA_PAGE:
                first_data = first_data or self._at
                values += page.values
            header = page.header()
            self._put(header)
            self._put(page.body)
            raw += len(header) + page.raw
            encodings.add(page.encoding)
        facts = {
            1: i32(kind),
            2: listed([i32(encoding) for encoding in sorted(encodings)]),
            3: listed([binary(name) for name in path]),
            4: i32(ZSTD),
            5: i64(values),
            6: i64(raw),
            7: i64(self._at - start),
            9: i64(first_data),
        }
        return facts if first_data == start else facts | {11: i64(start)}

    def _put(self, data: bytes | pa.Buffer) -> None:
        self._at += self._file.write(data)


def _number_pages(field: pa.Field, column: pa.Array) -> Iterator[Page]:
    data = column.to_numpy().astype(NUMBERS[field.type][1]).tobytes()
    yield Page.of(DATA_PAGE, PLAIN, len(column), data, 1)


def _list_pages(column: pa.Array) -> Iterator[Page]:
    """The dictionary, then pages of indices, and plain ones for rows that fp16 does not hold."""
    rows = len(column)
    floats_RE = column.flatten().to_numpy().reshape(rows, -1)
    half_RE, exact_R = halves(floats_RE)
    yield _dictionary()
    turns = np.flatnonzero(np.diff(exact_R)) + 1
    for first, last in pairwise([0, *turns.tolist(), rows]):
        for start in range(first, last, PAGE_ROWS):
            part = slice(start, min(start + PAGE_ROWS, last))
            yield _index_page(half_RE[part]) if exact_R[first] else _plain_page(floats_RE[part])


def halves(floats_RE: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Bits of fp16 [R, E], and which rows [R] are fp16 to the last bit.

    Numbers of fp16's normal range are shifted into place, which is faster than numpy's conversion
    there and back; rows with any others (zero among them) take that one.
    """
    bits_RE = floats_RE.view(np.uint32)
    half_RE, exact_R = _shifted(bits_RE), _are_normal(bits_RE)
    others = np.flatnonzero(~exact_R)
    with np.errstate(over="ignore"):
        rounded = floats_RE[others].astype(np.float16)
    exact_R[others] = (rounded.astype(np.float32).view(np.uint32) == bits_RE[others]).all(axis=1)
    half_RE[others] = rounded.view(np.uint16)
    return half_RE, exact_R


def _are_normal(bits_RE: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Rows of numbers from 2**-14 to 65,504 whose last 13 of 23 digits are 0."""
    size_RE = bits_RE & np.uint32(0x7FFFFFFF)
    size_RE -= np.uint32(0x38800000)
    inside_R = size_RE.max(axis=1) < 0x0F000000
    return inside_R & (np.bitwise_or.reduce(bits_RE, axis=1) & 0x1FFF == 0)


def _shifted(bits_RE: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """Sign, five digits of the exponent and ten of the fraction, from float32 to fp16."""
    half_RE = np.empty(bits_RE.shape, np.uint16)
    np.right_shift(bits_RE, 13, out=half_RE, casting="unsafe")
    half_RE -= np.uint16(0xC000)  # the exponents' biases differ by 112
    half_RE &= np.uint16(0x7FFF)
    sign_RE = np.empty(bits_RE.shape, np.uint16)
    np.right_shift(bits_RE, 16, out=sign_RE, casting="unsafe")
    sign_RE &= np.uint16(0x8000)
    half_RE |= sign_RE
    return half_RE


def _plain_page(floats_RE: NDArray[np.float32]) -> Page:
    data = _levels(*floats_RE.shape) + floats_RE.astype("<f4").tobytes()
    return Page.of(DATA_PAGE, PLAIN, floats_RE.size, data, 1)


def _index_page(half_RE: NDArray[np.uint16]) -> Page:
    """Indices in one bit-packed run: 16 bits each, a multiple of eight of them."""
    groups = -(-half_RE.size // 8)
    head = _levels(*half_RE.shape) + b"\x10" + varint(groups << 1 | 1)
    # Filled by numpy, which lets other threads run meanwhile.
    data = np.zeros(len(head) + 16 * groups, np.uint8)
    data[: len(head)] = np.frombuffer(head, np.uint8)
    indices = half_RE.reshape(-1).astype("<u2", copy=False).view(np.uint8)
    data[len(head) : len(head) + len(indices)] = indices
    return Page.of(DATA_PAGE, RLE_DICTIONARY, half_RE.size, data, FAST)


def _levels(rows: int, width: int) -> bytes:
    """Levels of lists of one length, in runs: 0 begins a list, 1 goes on with it; all are there."""
    row = varint(1 << 1) + b"\x00"
    if width > 1:
        row += varint((width - 1) << 1) + b"\x01"
    repetition, definition = row * rows, varint((rows * width) << 1) + b"\x01"
    return b"".join(struct.pack("<I", len(part)) + part for part in (repetition, definition))


FAST = -10
"""zstd's level for fp16 as it lies in memory: there is next to nothing to be found in it."""


@cache
def _dictionary() -> Page:
    values = np.arange(2**16, dtype="<u2").view("<f2").astype("<f4")
    return Page.of(DICTIONARY_PAGE, PLAIN, len(values), values.tobytes(), 19)


def _range(column: pa.Array) -> Value:
    """Statistics of a column of numbers: the largest, the smallest, no null."""
    values = column.to_numpy().astype(NUMBERS[column.type][1])
    low, high = (binary(value.tobytes()) for value in (values.min(), values.max()))
    return record({3: i64(0), 5: high, 6: low})


def _schema(arrow: pa.Schema) -> list[Value]:
    """The schema as a list of elements, depth first."""
    found = [record({4: binary("schema"), 5: i32(len(arrow))})]
    for field in arrow:
        name, required = binary(field.name), i32(REQUIRED)
        if pa.types.is_list(field.type):
            logical = record({3: record({})})
            group = {3: required, 4: name, 5: i32(1), 6: i32(LIST), 10: logical}
            repeated = {3: i32(REPEATED), 4: binary("list"), 5: i32(1)}
            element = {1: i32(FLOAT), 3: required, 4: binary("element")}
            found += [record(group), record(repeated), record(element)]
            continue
        facts = {1: i32(NUMBERS[field.type][0]), 3: required, 4: name}
        if field.type == pa.uint16():
            integer = record({1: thrift.byte(16), 2: thrift.boolean(False)})
            facts |= {6: i32(UINT_16), 10: record({10: integer})}
        found.append(record(facts))
    return found
