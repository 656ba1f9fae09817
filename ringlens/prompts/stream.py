"""Bytes that end, and the text in them: what every kind of file is read through."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from ringlens.errors import ProblemError
from ringlens.files import regular

LARGEST = 2**30
"""Most bytes that are read of one file."""

LONGEST = 2**26
"""Most characters of a line or a cell."""


class Bounded(io.RawIOBase):
    """A stream that refuses to give more than `LARGEST` bytes.

    Args:
        stream: Where the bytes come from.
        name: Its name, for the message.
        begin: Bytes that were taken from it already, and come first.
    """

    def __init__(self, stream: BinaryIO, name: str, begin: bytes = b"") -> None:
        self._stream, self._name, self._begin, self._taken = stream, name, begin, 0

    def readable(self) -> bool:
        """Say that bytes can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        """Fill a buffer as far as there are bytes.

        Raises:
            ProblemError: There are too many.
        """
        found = self._begin[: len(buffer)] or self._stream.read(len(buffer)) or b""
        self._begin = self._begin[len(found) :]
        buffer[: len(found)] = found
        self._taken += len(found)
        if self._taken > LARGEST:
            raise too_large(self._name)
        return len(found)


def too_large(name: str) -> ProblemError:
    """The refusal of a file that would fill the memory."""
    return ProblemError(
        f"{name} holds more than {LARGEST / 2**30:.0f} GiB, and at most "
        f"{LARGEST / 2**30:.0f} GiB is read. Ask for the first n, or split it."
    )


@contextmanager
def opened(path: Path, most: float = LARGEST) -> Iterator[BinaryIO]:
    """Open a file.

    Args:
        path: The file.
        most: Most bytes that it may have.

    Raises:
        ProblemError: It is missing, no regular file, too large, or unreadable.
    """
    try:
        if regular(path).st_size > most:
            raise too_large(str(path))
        stream = path.open("rb")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    with stream:
        yield stream


def unreadable(path: str | PathLike[str], error: Exception) -> ProblemError:
    """The refusal of a file that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    return ProblemError(f"cannot read {str(path)!r}: {reason}. Give a file of text.")


@contextmanager
def text_of(
    stream: BinaryIO, name: str, *, newline: str | None = None
) -> Iterator[io.TextIOWrapper]:
    """The text of a stream in UTF-8, with or without a byte order mark.

    Args:
        stream: The bytes.
        name: Their name, for messages.
        newline: As for `open`: None makes the ends of lines alike, "" leaves them.

    Raises:
        ProblemError: It is no UTF-8, too large, or cannot be read; while the text is used.
    """
    bounded = io.BufferedReader(Bounded(stream, name), 2**16)
    text = io.TextIOWrapper(bounded, encoding="utf-8-sig", newline=newline)
    try:
        yield text
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{name} is not UTF-8 text ({error.reason}). Save it as UTF-8; binary files are "
            "not read."
        ) from error
    except OSError as error:
        raise unreadable(name, error) from error


def lines_of(stream: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each after its place; ends of lines are those of any system.

    Raises:
        ProblemError: As for `text_of`; or a line holds a NUL.
    """
    with text_of(stream, name) as text:
        for number, line in enumerate(iter(lambda: text.readline(LONGEST), ""), start=1):
            if len(line) == LONGEST:
                raise ProblemError(f"{name}, line {number} has {LONGEST:,} characters or more.")
            if "\0" in line:
                raise ProblemError(f"{name}, line {number} holds a NUL: binary files are not read.")
            if line.strip():
                yield f"{name}, line {number}", line.removesuffix("\n")
