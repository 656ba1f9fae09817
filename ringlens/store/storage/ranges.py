"""Ranges: lets DuckDB and pyarrow read remote files by ranges of bytes.

DuckDB reads a file's footer and then the columns that a query needs. Names and sizes come from the
manifest, which saves the requests that would list files or look up sizes.
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
"""Fetches the bytes of a path from start to stop."""

TAIL = 2**16
"""Bytes at the end of a file that are fetched in one request and cached: at least its footer."""

TAILS = 1_024
"""Files whose tails are cached: at most 64 MiB."""


class RangeFile(io.RawIOBase):
    """A file that fetches what is read.

    DuckDB shares one handle between threads, each of which seeks and then reads; so every thread
    has its own position.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size, self._fetch = size, fetch
        self._thread = threading.local()

    def readable(self) -> bool:
        """Return True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: ranges can start anywhere."""
        return True

    def tell(self) -> int:
        """Position of the calling thread."""
        return int(getattr(self._thread, "position", 0))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position of the calling thread."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        self._thread.position = base + offset
        return base + offset

    def read(self, size: int | None = -1) -> bytes:
        """Read the next bytes, fewer at the end of the file."""
        start = self.tell()
        left = max(0, self._size - start)
        stop = start + (left if size is None or size < 0 else min(size, left))
        content = self._fetch(start, stop) if stop > start else b""
        self._thread.position = start + len(content)
        return content

    def readall(self) -> bytes:
        """Read the rest of the file."""
        return self.read()


class Ranges(AbstractFileSystem):
    """File system of one store's committed files, addressed as ``ringlens://<path>``.

    Args:
        fetch: Fetches a range of a file.
        size: Looks up the size of a file that is missing in `sizes`.

    Attributes:
        sizes: Sizes of files in bytes by path, from the manifest.
    """

    protocol = "ringlens"
    cachable = False

    def __init__(self, fetch: Fetch, size: Callable[[str], int]) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}
        self._fetch_range, self._look_up = fetch, size
        self._tail = lru_cache(TAILS)(self._fetch_tail)

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the path itself: names come from the manifest and contain no patterns."""
        return [self._strip_protocol(path)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name and size of a file."""
        name = self._strip_protocol(path)
        return {"name": name, "size": self._size(name), "type": "file"}

    def modified(self, path: str) -> datetime:
        """A constant: committed files never change."""
        return datetime(2000, 1, 1, tzinfo=UTC)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> RangeFile:
        if mode != "rb":
            raise PermissionError(f"{path} is committed and never changes")
        size = self._size(path)
        return RangeFile(size, lambda start, stop: self.fetch(path, size, start, stop))

    def fetch(self, path: str, size: int, start: int, stop: int) -> bytes:
        """Fetch a range of a file of ``size`` bytes, from its cached tail where possible."""
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
