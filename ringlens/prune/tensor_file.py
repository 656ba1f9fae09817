"""Safetensors files, written tensor by tensor: parts of another file, never a tensor in memory.

A file is eight bytes with the length of a JSON header, the header, and the tensors' bytes end to
end. Rows of a tensor, and whole tensors, are ranges of these bytes whatever their dtype.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Protocol

from ringlens.errors import CheckpointError

CHUNK = 2**24
"""Bytes in memory at a time."""

# Those that gate.shards has checked, with their alignment; F8 in all its kinds has one byte.
_ALIGNED = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2}


class Content(Protocol):
    """Where the bytes of a tensor come from."""

    def chunks(self) -> Iterator[bytes]:
        """Yield them in order, a part at a time."""


@dataclass(frozen=True)
class Span:
    """A tensor in a file.

    Attributes:
        file: The file.
        dtype: Its dtype, as "BF16".
        shape: Its shape.
        start: First byte.
        stop: Byte after the last.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        return _read(self.file, [(self.start, self.stop)])


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor: entries of its first dimension."""

    of: Span
    rows: tuple[int, ...]

    def chunks(self) -> Iterator[bytes]:
        """These rows, end to end."""
        width = (self.of.stop - self.of.start) // self.of.shape[0]
        starts = [self.of.start + row * width for row in self.rows]
        return _read(self.of.file, [(start, start + width) for start in starts])


@dataclass(frozen=True)
class NewTensor:
    """A tensor of a file that is written.

    Attributes:
        name: Its name.
        dtype: Its dtype.
        shape: Its shape.
        size: Its bytes.
        content: Where they come from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    content: Content


def spans(file: Path) -> dict[str, Span]:
    """Find the tensors of a file that `ringlens.model.gate.shards.headers` has passed."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    first = 8 + length
    return {
        name: Span(
            file,
            str(each["dtype"]),
            tuple(each["shape"]),
            first + each["data_offsets"][0],
            first + each["data_offsets"][1],
        )
        for name, each in header.items()
    }


def whole(name: str, span: Span) -> NewTensor:
    """A tensor as it is, under a name."""
    return NewTensor(name, span.dtype, span.shape, span.stop - span.start, span)


def some_rows(name: str, span: Span, rows: Sequence[int]) -> NewTensor:
    """Some rows of a tensor, under a name."""
    size = (span.stop - span.start) // span.shape[0] * len(rows)
    shape = (len(rows), *span.shape[1:])
    return NewTensor(name, span.dtype, shape, size, Rows(span, tuple(rows)))


def write(file: Path, tensors: Iterable[NewTensor]) -> None:
    """Write a file; it is on the disk when this returns.

    Raises:
        CheckpointError: A tensor's content has another size than it should; the file is then not
            whole.
        OSError: It cannot be written, or a source cannot be read.
    """
    # Widest numbers first, so that every tensor begins where its dtype may begin.
    ordered = sorted(tensors, key=lambda tensor: -_ALIGNED.get(tensor.dtype, 1))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in ordered:
        offsets = [at, at := at + tensor.size]
        header[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            written = sum(opened.write(chunk) for chunk in tensor.content.chunks())
            if written != tensor.size:
                raise CheckpointError(
                    f"{tensor.name} has {written:,} bytes where {tensor.size:,} were expected "
                    f"({tensor.dtype} {list(tensor.shape)}, {prod(tensor.shape):,} numbers): its "
                    "file was changed while it was read. Start again."
                )
        opened.flush()
        os.fsync(opened.fileno())


def _read(file: Path, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    with file.open("rb") as opened:
        for start, stop in ranges:
            yield from _range(opened, start, stop)


def _range(opened: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    opened.seek(start)
    left = stop - start
    while left > 0:
        chunk = opened.read(min(CHUNK, left))
        if not chunk:
            return  # found out by who counts
        left -= len(chunk)
        yield chunk
