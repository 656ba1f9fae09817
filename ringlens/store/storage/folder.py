"""Folder: where the files of a store live, and the few things that a store does with them.

Paths are those of the manifest: relative to the folder, with forward slashes.
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

LONGEST = 255
"""Most bytes of a name on a disk."""

Move = tuple[Path, str]
"""A staged file on this machine, and its path in the store."""


class Lock(Protocol):
    """What says that a writer is alive: until it is released, or its process is gone."""

    name: str

    def release(self) -> None:
        """Say that the writer has ended."""


class Folder(Protocol):
    """Where a store's files live; ``str(folder)`` is what it is called in messages.

    Attributes:
        address: What opens it again: an absolute path, or an address.
        name: Its last part.
        path: Its place on this machine's disk. Raises StoreError if it has none.
        is_local: Whether it has one.
        staging: Folder on this machine's disk in which its writers make their files.

    Raises:
        OSError: Wherever the disk or the server does; the callers turn it into a sentence.
    """

    address: str
    name: str
    is_local: bool

    @property
    def path(self) -> Path:
        """Its place on this machine's disk."""

    @property
    def staging(self) -> Path:
        """Where this machine's writers make their files."""

    def is_there(self) -> bool:
        """Whether there is such a folder."""

    def make(self) -> None:
        """Make the folder."""

    def open_manifest(self) -> Manifest:
        """The manifest, for reading."""

    def make_manifest(self) -> Manifest:
        """The manifest, for writing; made if it is missing."""

    def lock(self) -> Lock:
        """The lock of a new writer."""

    def is_locked(self, name: str) -> bool:
        """Whether this process sees the lock of a writer."""

    def dead_writers(self, names: set[str]) -> set[str]:
        """Those of some writers that are gone."""

    def names(self, path: str = "") -> list[str]:
        """What lies directly in a folder of the store; nothing if there is no such folder."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def size(self, path: str) -> int:
        """Bytes of a file."""

    def state(self, path: str) -> Hashable:
        """What changes where a file is changed or replaced, and costs no look into it."""

    def read(self, path: str) -> bytes:
        """A file's content."""

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a small file, as a whole or not at all."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    def hand_over(self, staged: Path, path: str) -> None:
        """Called where a file was staged, as soon as it is whole."""

    def publish(self, moves: Iterable[Move]) -> None:
        """Called by rank 0: bring the files of all ranks to where they belong.

        When this returns, a power cut does not undo it.
        """

    def source(self, path: str) -> Any:
        """A file as ``pyarrow.parquet`` opens it."""

    def sql_path(self, path: str) -> str:
        """A file as DuckDB opens it, on a connection that `serve` was called for."""

    def serve(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the folder's files."""

    def know(self, files: Sequence[File]) -> None:
        """Told of all committed files whenever they have changed."""


def folder_at(place: str | Path) -> Folder:
    """The folder at a path or an address.

    Raises:
        StoreError: It is no path that a folder can have; or the address is of a kind that fsspec
            does not know, or needs another package.
    """
    text = str(place)
    if not isinstance(place, str | PathLike) or not _is_path(text):
        raise StoreError(f"a store lies in a folder or at an address, not at {place!r:.80}")
    if "://" not in text:
        return SharedDisk(place) if is_shared(place) else LocalFolder(place)
    if text.startswith("file://"):
        path = Path(text.removeprefix("file://"))
        return LocalFolder(path) if (path / NAME).exists() else SharedDisk(path)
    from ringlens.store.storage.bucket import (
        Bucket,  # with fsspec, which a local store needs not wait for
    )

    return Bucket(text)


def _is_path(text: str) -> bool:
    """Whether a disk can have a path of this name."""
    whole = half_pair(text) is None and "\0" not in text
    return whole and all(len(part.encode()) <= LONGEST for part in text.split("/"))
