"""Frames over two pipes: eight bytes of length, then that many bytes; with a deadline and a limit.

The other end may be hostile: it may say nothing, say too much, or never read. So both pipes are
non-blocking and every wait has the deadline of the whole frame; a deadline for each piece would let
a byte now and then hold us for ever. The length is checked before anything is read for it.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_PREFIX = 8


class ChannelClosedError(Exception):
    """The other end is gone."""


class ChannelTimeoutError(Exception):
    """The deadline has passed."""


class FrameError(Exception):
    """The other end breaks the protocol."""


class Channel:
    """Reads frames from one file descriptor and writes them to another, and owns both.

    Args:
        reading: Descriptor to read from.
        writing: Descriptor to write to.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        for each in (reading, writing):
            os.set_blocking(each, False)

    def close(self) -> None:
        """Close both descriptors."""
        for each in (self._reading, self._writing):
            os.close(each)

    def send(self, frame: bytes, deadline: float | None = None) -> None:
        """Write a frame.

        Args:
            frame: Its bytes.
            deadline: Time of ``time.monotonic`` until which to try; None waits for ever.

        Raises:
            ChannelTimeoutError: It was not read in time.
            ChannelClosedError: The other end is gone.
        """
        rest = memoryview(len(frame).to_bytes(_PREFIX, "little") + frame)
        while rest:
            _wait(self._writing, select.POLLOUT, deadline)
            try:
                # Writable means room for a page; a larger write takes what fits and never blocks.
                rest = rest[os.write(self._writing, rest[:65536]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelClosedError(str(error)) from error

    def receive(self, limit: int, deadline: float | None = None) -> bytes:
        """Read a frame of at most ``limit`` bytes.

        Raises:
            ChannelTimeoutError: It was not there in time.
            ChannelClosedError: The other end is gone.
            FrameError: It is longer than the limit.
        """
        size = int.from_bytes(self._read(_PREFIX, deadline), "little")
        if size > limit:
            raise FrameError(f"a frame of {size} bytes, where {limit} are the most")
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float | None) -> bytes:
        found = bytearray()
        while len(found) < size:
            _wait(self._reading, select.POLLIN, deadline)
            try:
                piece = os.read(self._reading, min(size - len(found), 1 << 20))
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not piece:
                raise ChannelClosedError("the pipe is closed")
            found += piece
        return bytes(found)


def of_process(process: subprocess.Popen[bytes]) -> Channel:
    """The pipes to a process that was started with both; its own ends of them are closed."""
    assert process.stdin is not None
    assert process.stdout is not None
    channel = Channel(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()))
    process.stdin.close()
    process.stdout.close()
    return channel


def of_standard_pipes() -> Channel:
    """The pipes to the parent, moved away from 0 and 1, where a library might read or print."""
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)
    os.close(nothing)
    sys.stdin = sys.stdout = None
    return Channel(reading, writing)


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = None if deadline is None else 1000 * (deadline - time.monotonic())
    if (left is not None and left <= 0) or not poll.poll(left):
        raise ChannelTimeoutError
