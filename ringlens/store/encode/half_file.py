"""Writes Parquet files of lists of floats that fp16 holds exactly, nearly as fast as raw fp16.

pyarrow takes 9 ns per float, for the levels of the lists, byte stream splitting and zstd. But
Parquet can store fp16 bits unchanged and readable by any reader: in a dictionary of all 65,536
values of fp16, as floats, the 16 bits of a value are its index, and 16-bit indices are packed as
they are. Rows that fp16 cannot hold exactly go into plain pages in between. This takes 2 to 3 ns
per float and a sixth more space, which compaction recovers.

The other fast way, byte planes of fp16 in two binary columns, would show floats only on
connections that ringlens opens, and is slower: 10,100 tokens per second of Ring-1T with routing, on
four cores of a Xeon, against 12,900 here and 8,000 with pyarrow (`benchmarks/bench_logits.py`).

Shape letters: R rows, E floats per row.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
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

MIN_FLOATS = 2**20
"""Smallest number of floats that is worth a dictionary of 50 kB in every row group."""

PAGE_ROWS = 2_048

MAGIC = b"PAR1"
# Enum values from parquet.thrift.
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
    """A page: kind, encoding, number of values, size before compression, compressed bytes."""

    kind: int
    encoding: int
    values: int
    raw: int
    body: pa.Buffer

    @classmethod
    def of(cls, kind: int, encoding: int, values: int, data: bytes | NDArray, level: int) -> Page:
        """Make a page from bytes, compressed at a level of zstd."""
        raw = pa.py_buffer(data)
        body = pa.Codec("zstd", compression_level=level).compress(raw)
        return cls(kind, encoding, values, raw.size, body)

    def header(self) -> bytes:
        """Encode the header that precedes the page in the file."""
        check = zlib.crc32(self.body)
        # Thrift has signed numbers only; Parquet stores the bits of the unsigned CRC in one.
        facts = {1: i32(self.kind), 2: i32(self.raw), 3: i32(self.body.size)}
        facts[4] = i32(check - 2**32 if check >= 2**31 else check)
        values, encoding = i32(self.values), i32(self.encoding)
        if self.kind == DICTIONARY_PAGE:
            facts[7] = record({1: values, 2: encoding})
        else:
            facts[5] = record({1: values, 2: encoding, 3: i32(RLE), 4: i32(RLE)})
        return record(facts).data


def writer_of(values: int) -> Callable[[Path, Table, Iterable[pa.RecordBatch]], int] | None:
    """`write` for files with enough values, None for smaller ones."""
    return write if values >= MIN_FLOATS else None


def write(path: Path, table: Table, groups: Iterable[pa.RecordBatch]) -> int:
    """Write a file with the same rows as `parquet.write`, and flush it to the disk.

    Returns:
        Number of rows written.

    Raises:
        OSError: The disk is full, read-only or broken. A partial file may remain.
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
    """Writes row groups of number columns and, last, one column of lists of equal length.

    Args:
        file: File to write to.
        arrow: Schema of the columns.
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
        order = record({1: record({})})  # TypeDefinedOrder: statistics compare by type
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
        """Write the pages of a column; return its metadata for the footer."""
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
    """Yield the dictionary, pages of indices, and plain pages for rows that fp16 cannot hold."""
    rows = len(column)
    floats_RE = column.flatten().to_numpy().reshape(rows, -1)
    half_RE, exact_R = halves(floats_RE)
    yield _dictionary()
    # A page has one encoding, so pages break wherever exact and other rows alternate.
    changes = np.flatnonzero(np.diff(exact_R)) + 1
    for first, last in pairwise([0, *changes.tolist(), rows]):
        for start in range(first, last, PAGE_ROWS):
            part = slice(start, min(start + PAGE_ROWS, last))
            yield _index_page(half_RE[part]) if exact_R[first] else _plain_page(floats_RE[part])


def halves(floats_RE: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Convert to bits of fp16 [R, E], and flag the rows [R] for which this is exact.

    Numbers in fp16's normal range are converted by shifting bits, which is faster than numpy's
    conversion there and back; rows with any other number (including zero) take the latter.
    """
    bits_RE = floats_RE.view(np.uint32)
    half_RE, exact_R = _shifted(bits_RE), _are_normal(bits_RE)
    others = np.flatnonzero(~exact_R)
    with np.errstate(over="ignore"):
        rounded = floats_RE[others].astype(np.float16)
    # Bits, not values, are compared: -0.0 equals 0.0, and NaN does not equal itself.
    exact_R[others] = (rounded.astype(np.float32).view(np.uint32) == bits_RE[others]).all(axis=1)
    half_RE[others] = rounded.view(np.uint16)
    return half_RE, exact_R


def _are_normal(bits_RE: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Flag rows of numbers from 2**-14 to 65,504 whose last 13 of 23 fraction bits are 0."""
    size_RE = bits_RE & np.uint32(0x7FFFFFFF)  # without the sign
    # 0x38800000 is 2**-14 as float32. Smaller numbers wrap around and become large, so a single
    # comparison checks both ends of the range; 0x38800000 + 0x0F000000 is 2**16.
    size_RE -= np.uint32(0x38800000)
    inside_R = size_RE.max(axis=1) < 0x0F000000
    return inside_R & (np.bitwise_or.reduce(bits_RE, axis=1) & 0x1FFF == 0)


def _shifted(bits_RE: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """Move the sign, five bits of the exponent and ten of the fraction from float32 to fp16."""
    half_RE = np.empty(bits_RE.shape, np.uint16)
    np.right_shift(bits_RE, 13, out=half_RE, casting="unsafe")
    half_RE -= np.uint16(0xC000)  # exponent biases 127 and 15 differ by 112; 112 << 10, mod 2**16
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
    """Make a page of indices: one bit-packed run of 16-bit values, padded to groups of eight."""
    groups = -(-half_RE.size // 8)
    head = _levels(*half_RE.shape) + b"\x10" + varint(groups << 1 | 1)
    # Filled by numpy, which releases the GIL; joining bytes would hold it.
    data = np.zeros(len(head) + 16 * groups, np.uint8)
    data[: len(head)] = np.frombuffer(head, np.uint8)
    indices = half_RE.reshape(-1).astype("<u2", copy=False).view(np.uint8)
    data[len(head) : len(head) + len(indices)] = indices
    return Page.of(DATA_PAGE, RLE_DICTIONARY, half_RE.size, data, ZSTD_FAST)


def _levels(rows: int, width: int) -> bytes:
    """Run-length encode the levels of lists of equal length without nulls.

    Repetition level 0 starts a list and 1 continues it; definition level 1 marks a value.
    """
    row = varint(1 << 1) + b"\x00"
    if width > 1:
        row += varint((width - 1) << 1) + b"\x01"
    repetition, definition = row * rows, varint((rows * width) << 1) + b"\x01"
    return b"".join(struct.pack("<I", len(part)) + part for part in (repetition, definition))


ZSTD_FAST = -10
"""Level of zstd for raw fp16 bits, which hardly compress, so speed is all that counts."""


@cache
def _dictionary() -> Page:
    values = np.arange(2**16, dtype="<u2").view("<f2").astype("<f4")
    return Page.of(DICTIONARY_PAGE, PLAIN, len(values), values.tobytes(), 19)


def _range(column: pa.Array) -> Value:
    """Encode statistics of a column of numbers: maximum, minimum, no nulls."""
    values = column.to_numpy().astype(NUMBERS[column.type][1])
    low, high = (binary(value.tobytes()) for value in (values.min(), values.max()))
    return record({3: i64(0), 5: high, 6: low})


def _schema(arrow: pa.Schema) -> list[Value]:
    """Encode the schema as a list of elements, depth first."""
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
