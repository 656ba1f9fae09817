"""LocalFolder: a store on a disk of this machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from ringlens.files import regular
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.storage import parquet
from ringlens.store.storage.lock import WriterLock, dead_writers

if TYPE_CHECKING:
    from ringlens.store.storage.folder import Move


class LocalFiles:
    """Files of a folder that is mounted on this machine."""

    is_local = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.address = str(self.path)
        self.name = self.path.name

    def __str__(self) -> str:
        return self.address

    def is_there(self) -> bool:
        """Whether the folder exists."""
        return self.path.exists()

    def make(self) -> None:
        """Create the folder if it is missing."""
        self.path.mkdir(parents=True, exist_ok=True)

    def names(self, path: str = "") -> list[str]:
        """Names of the direct children of a folder in the store; empty if it does not exist."""
        folder = self.path / path
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def exists(self, path: str) -> bool:
        """Whether the file exists."""
        return (self.path / path).is_file()

    def size(self, path: str) -> int:
        """Size of a file in bytes."""
        return regular(self.path / path).st_size

    def state(self, path: str) -> tuple[int, ...]:
        """A token that changes whenever the file is changed or replaced."""
        found = regular(f"{self.path}/{path}")  # asked of every file in every query
        # The change time as well: programs can set the modification time back, but not this.
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read(self, path: str) -> bytes:
        """Content of a file."""
        regular(self.path / path)
        return (self.path / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a small file atomically."""
        temporary = self.path / f"{path}.{secrets.token_hex(4)}"
        temporary.write_bytes(content)
        os.replace(temporary, self.path / path)

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""
        (self.path / path).unlink(missing_ok=True)

    def source(self, path: str) -> Path:
        """A file, in the form that ``pyarrow.parquet`` opens."""
        regular(self.path / path)
        return self.path / path

    def sql_path(self, path: str) -> str:
        """A file as DuckDB addresses it."""
        return str(self.path / path)

    def register_with(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Do nothing: DuckDB reads local files itself."""

    def note_sizes(self, files: Sequence[File]) -> None:
        """Do nothing: the disk gives sizes for free."""


class LocalFolder(LocalFiles):
    """A folder on a disk of this machine, with a SQLite manifest and file locks for writers."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.staging = self.path / "staging"

    def open_manifest(self) -> Manifest:
        """Open the manifest for reading."""
        return Manifest.read(self.path)

    def make_manifest(self) -> Manifest:
        """Open the manifest for writing; create it if it is missing."""
        return Manifest.create(self.path)

    def lock(self) -> WriterLock:
        """Take a file lock, which the kernel releases when the process ends."""
        self.staging.mkdir(exist_ok=True)
        return WriterLock(self.staging)

    def is_locked(self, name: str) -> bool:
        """Whether this process can see a writer's lock."""
        return (self.staging / f"{name}.lock").exists()

    def dead_writers(self, names: set[str]) -> set[str]:
        """The writers among ``names`` whose process has ended."""
        return dead_writers(self.staging, names)

    def hand_over(self, staged: Path, path: str) -> None:
        """Do nothing: rank 0 sees the staged file where it is."""

    def publish(self, moves: Iterable[Move]) -> None:
        """Rename staged files into place, and flush the new names to the disk."""
        folders = set()
        for staged, path in moves:
            final = self.path / path
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, final)  # staging is in the store's folder, so this never copies
            # A rename survives a power cut only once its folder is flushed, and a new folder
            # only once its parent is. The files' bytes were flushed when they were staged.
            folders |= {final.parent, final.parent.parent, self.path}
        for folder in folders:
            parquet.flush(folder)
