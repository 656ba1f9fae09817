"""Rows between two processes that do not trust each other: Arrow IPC, checked before it is used.

Never pickles, which run code where they are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from ringlens.store.channel import FrameError

# Of the flatbuffers in Arrow's format/Message.fbs: kinds of messages, and places of fields.
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_HEADER_TYPE, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3


def encode(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def decode(body: bytes) -> pa.Table:
    """An Arrow IPC stream from a process that may be hostile.

    Raises:
        FrameError: It is not well-formed (offsets, lengths and UTF-8 are all checked), or it is
            compressed, as a few bytes could then take all memory.
    """
    try:
        if any(_is_compressed(message) for message in _messages(body)):
            raise FrameError("the table is compressed")
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, MemoryError, struct.error) as error:
        raise FrameError(f"no table where one was due: {error}") from error
    return table


def _messages(body: bytes) -> Iterator[bytes]:
    """The description of each message of a stream."""
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            yield reader.read_next_message().metadata.to_pybytes()
        except StopIteration:
            return


def _is_compressed(message: bytes) -> bool:
    """Whether a message's description says that its rows are compressed."""
    root = struct.unpack_from("<I", message)[0]
    kind_at, header_at = _field(message, root, _HEADER_TYPE), _field(message, root, _HEADER)
    if not kind_at or not header_at:
        return False
    kind, batch = message[kind_at], _target(message, header_at)
    if kind == _DICTIONARY_BATCH:
        data_at = _field(message, batch, _DATA)
        return bool(data_at) and bool(_field(message, _target(message, data_at), _COMPRESSION))
    return kind == _RECORD_BATCH and bool(_field(message, batch, _COMPRESSION))


def _field(buffer: bytes, table: int, index: int) -> int:
    """Where a field of a flatbuffer's table lies; 0 if it is left out."""
    offsets = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, offsets)[0]
    if 4 + 2 * index >= size:
        return 0
    offset = struct.unpack_from("<H", buffer, offsets + 4 + 2 * index)[0]
    return table + offset if offset else 0


def _target(buffer: bytes, at: int) -> int:
    """What a reference in a flatbuffer leads to."""
    return int(at + struct.unpack_from("<I", buffer, at)[0])
