"""Folder: where a store's files live, and the operations that a store needs on them.

Paths are written as in the manifest: relative to the folder, with forward slashes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import duckdb

from ringlens.errors import StoreError
from ringlens.plain import half_pair
from ringlens.store.manifest.manifest import NAME, File, Manifest
from ringlens.store.storage.local import LocalFolder
from ringlens.store.storage.shared_disk import SharedDisk, is_shared

MAX_NAME_BYTES = 255
"""Longest file name that a disk can store."""

Move = tuple[Path, str]
"""A staged file on this machine and its path in the store."""


class Lock(Protocol):
    """Marks a writer as alive until it is released or its process ends."""

    name: str

    def release(self) -> None:
        """Declare that the writer has ended."""


class Folder(Protocol):
    """Where a store's files live; ``str(folder)`` is its name in messages.

    Attributes:
        address: Reopens the folder: an absolute path or an address.
        name: Last part of the address.
        path: Path on this machine's disk. Raises StoreError if there is none.
        is_local: Whether there is such a path.
        staging: Folder on this machine's disk in which writers make their files.

    Raises:
        OSError: The disk or the server fails; callers turn it into a message.
    """

    address: str
    name: str
    is_local: bool

    @property
    def path(self) -> Path:
        """Path on this machine's disk."""

    @property
    def staging(self) -> Path:
        """Folder in which this machine's writers make their files."""

    def is_there(self) -> bool:
        """Whether the folder exists."""

    def make(self) -> None:
        """Create the folder if it is missing."""

    def open_manifest(self) -> Manifest:
        """Open the manifest for reading."""

    def make_manifest(self) -> Manifest:
        """Open the manifest for writing; create it if it is missing."""

    def lock(self) -> Lock:
        """Take a lock for a new writer."""

    def is_locked(self, name: str) -> bool:
        """Whether this process can see a writer's lock."""

    def dead_writers(self, names: set[str]) -> set[str]:
        """The writers among ``names`` whose process has ended."""

    def names(self, path: str = "") -> list[str]:
        """Names of the direct children of a folder in the store; empty if it does not exist."""

    def exists(self, path: str) -> bool:
        """Whether the file exists."""

    def size(self, path: str) -> int:
        """Size of a file in bytes."""

    def state(self, path: str) -> Hashable:
        """A token that changes whenever the file does; costs no read of the file."""

    def read(self, path: str) -> bytes:
        """Content of a file."""

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a small file atomically."""

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""

    def hand_over(self, staged: Path, path: str) -> None:
        """Accept a complete staged file; called by the rank that staged it."""

    def publish(self, moves: Iterable[Move]) -> None:
        """Move the files of all ranks to their paths in the store; called by rank 0.

        The result survives a power cut once this returns.
        """

    def source(self, path: str) -> Any:
        """A file, in the form that ``pyarrow.parquet`` opens."""

    def sql_path(self, path: str) -> str:
        """A file as DuckDB addresses it, on a connection given to `register_with`."""

    def register_with(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the folder's files readable on a DuckDB connection."""

    def note_sizes(self, files: Sequence[File]) -> None:
        """Note the sizes of all committed files; called whenever the list changes."""


def folder_at(place: str | Path) -> Folder:
    """Open the folder at a path or an address.

    Raises:
        StoreError: No folder can have this path, fsspec does not support the address, or the
            address needs another package.
    """
    text = str(place)
    if not isinstance(place, str | PathLike) or not _is_path(text):
        raise StoreError(f"a store is kept in a folder or at an address, not at {place!r:.80}")
    if "://" not in text:
        return SharedDisk(place) if is_shared(place) else LocalFolder(place)
    if text.startswith("file://"):
        path = Path(text.removeprefix("file://"))
        # A store that already has a SQLite manifest keeps it, also under a file:// address.
        return LocalFolder(path) if (path / NAME).exists() else SharedDisk(path)
    # Imported late: it imports fsspec, which local stores do not need.
    from ringlens.store.storage.bucket import Bucket

    return Bucket(text)


def _is_path(text: str) -> bool:
    """Whether a disk can store a path with this name."""
    encodable = half_pair(text) is None and "\0" not in text
    return encodable and all(len(part.encode()) <= MAX_NAME_BYTES for part in text.split("/"))
