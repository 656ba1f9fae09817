"""Caches what is computed from a store's files, so that a click does not read them again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ringlens.store.manifest.manifest import File

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass
class _Entry(Generic[V]):
    """A value, the files it was computed from, and the lock of the thread that computes it."""

    paths: frozenset[str] = frozenset()
    value: V | None = None
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class FileCache(Generic[K, V]):
    """Caches values computed from committed files, in bounded memory. Safe for threads.

    Committed files never change. So a value is valid while its files are those that are asked for;
    new files extend it, a file that is gone discards it.

    Args:
        read: Computes the value of a key from files.
        size: Returns the bytes of a value.
        limit: Bytes of all values; the latest is kept whatever its size.
        join: Joins two values; without it new files cause the value to be computed again.
    """

    def __init__(
        self,
        read: Callable[[K, Sequence[File]], V],
        size: Callable[[V], int],
        limit: int,
        join: Callable[[V, V], V] | None = None,
    ) -> None:
        self._read, self._size, self._limit, self._join = read, size, limit, join
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Bytes of the cached values."""
        return sum(entry.bytes for entry in self._entries.values())

    def get(self, key: K, files: Sequence[File]) -> V:
        """Return the value of a key for ``files``; one thread computes it while others wait."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            paths = frozenset(file.path for file in files)
            if entry.value is None or entry.paths != paths:
                entry.value = value = self._made(key, files, entry)
                entry.paths, entry.bytes = paths, self._size(value)
                self._make_room()
            return entry.value

    def _made(self, key: K, files: Sequence[File], entry: _Entry[V]) -> V:
        new = [file for file in files if file.path not in entry.paths]
        grows = len(files) - len(new) == len(entry.paths)
        if entry.value is None or self._join is None or not grows:
            return self._read(key, files)
        return self._join(entry.value, self._read(key, new))

    def _make_room(self) -> None:
        with self._lock:
            while len(self._entries) > 1 and self.bytes > self._limit:
                self._entries.popitem(last=False)
