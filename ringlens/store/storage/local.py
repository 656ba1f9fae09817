"""Local files, and LocalFolder: a store on a disk of this machine."""

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
    """The files of a folder that this machine has mounted."""

    is_local = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.address = str(self.path)
        self.name = self.path.name

    def __str__(self) -> str:
        return self.address

    def is_there(self) -> bool:
        """Whether there is such a folder."""
        return self.path.exists()

    def make(self) -> None:
        """Make the folder."""
        self.path.mkdir(parents=True, exist_ok=True)

    def names(self, path: str = "") -> list[str]:
        """What lies directly in a folder of the store."""
        folder = self.path / path
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self.path / path).is_file()

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return regular(self.path / path).st_size

    def state(self, path: str) -> tuple[int, ...]:
        """What changes where a file is changed or replaced."""
        found = regular(self.path / path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read(self, path: str) -> bytes:
        """A file's content."""
        regular(self.path / path)
        return (self.path / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a small file."""
        temporary = self.path / f"{path}.{secrets.token_hex(4)}"
        temporary.write_bytes(content)
        os.replace(temporary, self.path / path)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        (self.path / path).unlink(missing_ok=True)

    def source(self, path: str) -> Path:
        """A file as ``pyarrow.parquet`` opens it."""
        regular(self.path / path)
        return self.path / path

    def sql_path(self, path: str) -> str:
        """A file as DuckDB opens it."""
        return str(self.path / path)

    def serve(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing to do: DuckDB reads local files itself."""

    def know(self, files: Sequence[File]) -> None:
        """Nothing to do."""


class LocalFolder(LocalFiles):
    """A folder on a disk of this machine: a manifest in SQLite, writers known by file locks."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.staging = self.path / "staging"

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
