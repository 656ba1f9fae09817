"""Ranges: remote files as DuckDB and pyarrow read them, a range of bytes at a time.

DuckDB asks for a file's last bytes and then for the columns that a query needs. It is told names
and sizes from the manifest, so no request is made to list or look up anything.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fsspec import AbstractFileSystem

Fetch = Callable[[str, int, int], bytes]
"""Path, start and stop to bytes."""

TAIL = 2**16
"""Bytes at the end of a file that are fetched at once and kept: its footer, or all of it."""

TAILS = 1_024
"""Files whose tails are kept: 64 MiB."""


class RangeFile(io.RawIOBase):
    """A file that fetches what is read.

    DuckDB reads one handle in several threads, each of which seeks and then reads; so each thread
    has a position of its own.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size, self._fetch = size, fetch
        self._thread = threading.local()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position of the thread that asks."""
        return int(getattr(self._thread, "position", 0))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position of the thread that asks."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        self._thread.position = base + offset
        return base + offset

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, fewer at the end."""
        start = self.tell()
        left = max(0, self._size - start)
        stop = start + (left if size is None or size < 0 else min(size, left))
        content = self._fetch(start, stop) if stop > start else b""
        self._thread.position = start + len(content)
        return content

    def readall(self) -> bytes:
        """The rest."""
        return self.read()


class Ranges(AbstractFileSystem):
    """The committed files of one store, ``ringlens://`` and their path in it.

    Args:
        fetch: Reads a range of a file.
        size: Looks up the size of a file that `sizes` does not have.

    Attributes:
        sizes: Bytes of files by path, from the manifest.
    """

    protocol = "ringlens"
    cachable = False

    def __init__(self, fetch: Fetch, size: Callable[[str], int]) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self._fetch_range, self._look_up = fetch, size
        self._tail = lru_cache(TAILS)(self._fetch_tail)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file itself: names come from the manifest and hold no patterns."""
        return [self._strip_protocol(path)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name and size."""
        name = self._strip_protocol(path)
        return {"name": name, "size": self._size(name), "type": "file"}

    def modified(self, path: str) -> datetime:
        """Always the same: committed files never change."""
        return datetime(2000, 1, 1, tzinfo=UTC)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> RangeFile:
        if mode != "rb":
            raise PermissionError(f"{path} is committed and never changes")
        size = self._size(path)
        return RangeFile(size, lambda start, stop: self.fetch(path, size, start, stop))

    def fetch(self, path: str, size: int, start: int, stop: int) -> bytes:
        """A range of a file of ``size`` bytes."""
        first = max(0, size - TAIL)
        if start >= first:
            return self._tail(path, first, size)[start - first : stop - first]
        return self._fetch_range(path, start, stop)

    def _size(self, path: str) -> int:
        if path not in self.sizes:
            self.sizes[path] = self._look_up(path)
        return self.sizes[path]

    def _fetch_tail(self, path: str, first: int, size: int) -> bytes:
        return self._fetch_range(path, first, size)
