"""Rows from an untrusted process: Arrow IPC, checked before it is used.

Never pickles, which run code where they are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import pyarrow as pa

from ringlens.sandbox.channel import FrameError
from ringlens.store.read.extent import Extent, TooLargeError, check

# From the flatbuffers of Arrow's format/Message.fbs: kinds of messages, and indices of fields.
_SCHEMA, _RECORD_BATCH = 1, 3
_HEADER_TYPE, _HEADER, _COMPRESSION = 1, 2, 3

_AGREED = (
    pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating,
    pa.types.is_decimal128, pa.types.is_string, pa.types.is_binary, pa.types.is_date32,
    pa.types.is_time, pa.types.is_timestamp, pa.types.is_list, pa.types.is_fixed_size_list,
    pa.types.is_map, pa.types.is_struct,
)  # fmt: skip
"""Types whose values all have bytes of their own, except for null."""


def encode(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream of one batch."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def decode(body: bytes, limits: Extent | None = None) -> pa.Table:
    """Read an Arrow IPC stream from a process that may be hostile.

    Args:
        body: The stream.
        limits: The most that it may hold.

    Raises:
        FrameError: It is not well-formed (offsets, lengths and UTF-8 are all checked), of more than
            one batch, of a type whose values can share memory or are expanded where they are read
            (dictionaries, views, run ends, extensions, compression), or larger than the limits.
    """
    try:
        _check_messages(body)
        reader = pa.ipc.open_stream(body)
        if limits is not None and len(reader.schema) > limits.columns:
            raise FrameError(f"the table has {len(reader.schema):,} columns")
        for field in reader.schema:
            field.name.encode()  # a name that is no text raises ValueError
            _check_type(field.type)
        table = reader.read_all()
        table.validate(full=True)
        if limits is not None:
            check(table, limits)
    except (pa.ArrowException, OSError, ValueError, MemoryError, struct.error) as error:
        raise FrameError(f"no table where one was due: {str(error)[:300]}") from error
    except TooLargeError as error:
        raise FrameError(f"the table has {error}") from error
    return table


def shown(table: pa.Table, texts: Sequence[object]) -> tuple[pa.Table, pa.Table]:
    """The rows of an answer as Arrow holds them and as people read them.

    Args:
        table: The columns, then the text of some of them.
        texts: Indices of those columns, in order.

    Raises:
        FrameError: They do not fit the table.
    """
    count = table.num_columns - len(texts)
    for i, at in enumerate(texts, count):
        if type(at) is not int or not 0 <= at < count or table.schema.types[i] != pa.string():
            raise FrameError("the columns of text are not the announced ones")
    native = table.select(list(range(count)))
    readable = list(native.columns)
    for at, column in zip(texts, table.columns[count:], strict=True):
        readable[int(str(at))] = column
    if any(pa.types.is_nested(column.type) for column in readable):
        raise FrameError("a nested column comes without its text")
    fields = [
        field.with_type(column.type) for field, column in zip(native.schema, readable, strict=True)
    ]
    return native, pa.Table.from_arrays(readable, schema=pa.schema(fields))


def _check_type(kind: pa.DataType) -> None:
    """Raise FrameError for other types; a loop, as deep nesting would exhaust the stack."""
    waiting = [kind]
    while waiting:
        each = waiting.pop()
        if not any(test(each) for test in _AGREED):
            raise FrameError(f"a column of type {str(each)[:100]}")
        waiting.extend(each.field(i).type for i in range(each.num_fields))


def _check_messages(body: bytes) -> None:
    """Raise FrameError unless the messages are a schema and at most one uncompressed batch.

    They are checked before pyarrow reads the stream, which would expand compressed rows.
    """
    kinds = []
    for message in _messages(body):
        kind, compressed = _described(message)
        kinds.append(kind)
        if compressed:
            raise FrameError("the table is compressed")
        if kinds not in ([_SCHEMA], [_SCHEMA, _RECORD_BATCH]):
            raise FrameError("a table is a schema and one batch")


def _messages(body: bytes) -> Iterator[bytes]:
    """The metadata of each message of a stream."""
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            yield reader.read_next_message().metadata.to_pybytes()
        except StopIteration:
            return


def _described(message: bytes) -> tuple[int, bool]:
    """The kind of a message, and whether its metadata says that its rows are compressed."""
    root = struct.unpack_from("<I", message)[0]
    kind_at, header_at = _field(message, root, _HEADER_TYPE), _field(message, root, _HEADER)
    if not kind_at or not header_at:
        return 0, False
    kind, batch = message[kind_at], _target(message, header_at)
    return kind, kind == _RECORD_BATCH and bool(_field(message, batch, _COMPRESSION))


def _field(buffer: bytes, table: int, index: int) -> int:
    """Offset of a field of a flatbuffer's table; 0 if it is left out."""
    offsets = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, offsets)[0]
    if 4 + 2 * index >= size:
        return 0
    offset = struct.unpack_from("<H", buffer, offsets + 4 + 2 * index)[0]
    return table + offset if offset else 0


def _target(buffer: bytes, at: int) -> int:
    """Offset that a reference in a flatbuffer points to."""
    return int(at + struct.unpack_from("<I", buffer, at)[0])
