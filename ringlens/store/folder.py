"""Folder: where the files of a store live, and the few things that a store does with them.

Paths are those of the manifest: relative to the folder, with forward slashes.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb

from ringlens.store import parquet
from ringlens.store.lock import WriterLock, dead_writers
from ringlens.store.manifest import File, Manifest

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
        staging: Folder on this machine's disk in which its writers make their files.

    Raises:
        OSError: Wherever the disk or the server does; the callers turn it into a sentence.
    """

    address: str
    name: str

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


class LocalFolder:
    """A folder on a disk of this machine."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.address = str(self.path)
        self.name = self.path.name
        self.staging = self.path / "staging"

    def __str__(self) -> str:
        return self.address

    def is_there(self) -> bool:
        """Whether there is such a folder."""
        return self.path.exists()

    def make(self) -> None:
        """Make the folder."""
        self.path.mkdir(parents=True, exist_ok=True)

    def open_manifest(self) -> Manifest:
        """The manifest, for reading."""
        return Manifest.read(self.path)

    def make_manifest(self) -> Manifest:
        """The manifest, for writing."""
        return Manifest.create(self.path)

    def lock(self) -> WriterLock:
        """A file lock, which the kernel drops with the process."""
        self.staging.mkdir(exist_ok=True)
        return WriterLock(self.staging)

    def is_locked(self, name: str) -> bool:
        """Whether this process sees the lock of a writer."""
        return (self.staging / f"{name}.lock").exists()

    def dead_writers(self, names: set[str]) -> set[str]:
        """Those of some writers whose process is gone."""
        return dead_writers(self.staging, names)

    def names(self, path: str = "") -> list[str]:
        """What lies directly in a folder of the store."""
        folder = self.path / path
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self.path / path).is_file()

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return (self.path / path).stat().st_size

    def read(self, path: str) -> bytes:
        """A file's content."""
        return (self.path / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a small file."""
        temporary = self.path / f"{path}.{secrets.token_hex(4)}"
        temporary.write_bytes(content)
        os.replace(temporary, self.path / path)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        (self.path / path).unlink(missing_ok=True)

    def hand_over(self, staged: Path, path: str) -> None:
        """Nothing to do: rank 0 sees the file where it is."""

    def publish(self, moves: Iterable[Move]) -> None:
        """Rename staged files into place, and wait until the disk has the new names."""
        folders = set()
        for staged, path in moves:
            final = self.path / path
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, final)
            folders |= {final.parent, final.parent.parent, self.path}
        for folder in folders:
            parquet.flush(folder)

    def source(self, path: str) -> Path:
        """A file as ``pyarrow.parquet`` opens it."""
        return self.path / path

    def sql_path(self, path: str) -> str:
        """A file as DuckDB opens it."""
        return str(self.path / path)

    def serve(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing to do: DuckDB reads local files itself."""

    def know(self, files: Sequence[File]) -> None:
        """Nothing to do."""


def folder_at(place: str | Path | Folder) -> Folder:
    """The folder at a path or an address."""
    if isinstance(place, str | Path):
        return LocalFolder(place)
    return place
