"""What the process keeps of a store's files, so that a click does not read them again."""

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
    """A value, the files it was made of, and the lock of who makes it."""

    paths: frozenset[str] = frozenset()
    value: V | None = None
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Kept(Generic[K, V]):
    """Values made of committed files, in a bounded part of memory. Safe for threads.

    Committed files never change. So a value is right as long as its files are those that are asked
    for, and grows by the new ones as long as none of its own has gone.

    Args:
        read: Makes a key's value from some files.
        size: Bytes of a value.
        limit: Bytes of all values that are kept; the latest is kept whatever its size.
        join: Makes one value of two; without it a value is made anew where there are new files.
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
        """Memory of the values that are kept."""
        return sum(entry.bytes for entry in self._entries.values())

    def get(self, key: K, files: Sequence[File]) -> V:
        """The value of a key, made of ``files``; one thread makes it while others wait for it."""
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
