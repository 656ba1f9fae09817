"""Remote folders: a store on a server, or on a disk that several machines share.

Files are encoded in a local folder and uploaded under their final names, which no reader looks up
before the manifest lists them. The manifest is an object log.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.manifest.object_log import ObjectLog
from ringlens.store.storage import lease
from ringlens.store.storage.lock import WriterLock, dead_writers

if TYPE_CHECKING:
    from ringlens.store.storage.folder import Move

FRESH = 0.2
"""Seconds for which a reader reuses the manifest that it last read; checking costs a request."""


class RemoteFolder(ABC):
    """Base of all remote folders; see `ringlens.store.storage.folder.Folder`.

    Attributes:
        address: Reopens the folder.
        name: Last part of the address.
    """

    address: str
    name: str

    def __str__(self) -> str:
        return self.address

    @cached_property
    def staging(self) -> Path:
        """Private local folder of this user, one per store."""
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        own = Path(tempfile.gettempdir()) / f"ringlens-{os.getuid()}"
        for folder in (own, own / digest):
            _make_own(folder)
        return own / digest

    def open_manifest(self) -> Manifest:
        """Open the manifest for reading; it is at most FRESH seconds old."""
        return Manifest.in_memory(partial(ObjectLog, self, fresh=FRESH))

    def make_manifest(self) -> Manifest:
        """Open the manifest for writing."""
        return Manifest.in_memory(partial(ObjectLog, self))

    def lock(self) -> lease.Lease:
        """Take a lease, and a file lock for the other writers on this machine."""
        lock = WriterLock(self.staging)
        try:
            return lease.Lease(self, lock)
        except BaseException:
            lock.release()
            raise

    def is_locked(self, name: str) -> bool:
        """Whether this process can see a writer's lease."""
        return self.exists(lease.path_of(name))

    def dead_writers(self, names: set[str]) -> set[str]:
        """The writers among ``names`` whose process has ended.

        File locks show it at once on this machine; elsewhere the lease has to expire.
        """
        # A writer with a lock file here is judged by it alone: its lease could still be valid.
        here = {path.stem for path in self.staging.glob("*.lock")}
        dead = dead_writers(self.staging, here)
        for name in dead:
            self.remove(lease.path_of(name))
        return names & (dead | lease.expired(self, names - here))

    def hand_over(self, staged: Path, path: str) -> None:
        """Upload a staged file to its path in the store."""
        try:
            self.upload(staged, path)
        finally:
            staged.unlink(missing_ok=True)

    def publish(self, moves: Iterable[Move]) -> None:  # noqa: B027  not abstract
        """Do nothing: `hand_over` has uploaded every file."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether the file exists."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file if it exists."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file atomically."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> None:
        """Create a file; FileExistsError if it exists. Of concurrent callers one succeeds."""

    @abstractmethod
    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files; None for a file that does not exist."""

    @abstractmethod
    def modified(self, path: str) -> datetime:
        """When a file was last written, by the server's clock."""

    @abstractmethod
    def upload(self, staged: Path, path: str) -> None:
        """Upload a local file to a path in the store."""


def _make_own(folder: Path) -> None:
    """Create a private folder in a directory to which other users can write.

    Its name cannot be random: the writers on this machine find each other there. So another user
    may have created it first.

    Raises:
        StoreError: The path is a link or not a folder, belongs to another user, or others can
            write to it.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()  # of a link itself, not of its target
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        wrong = "is a link" if stat.S_ISLNK(found.st_mode) else "is not a folder"
    elif found.st_uid != os.getuid():
        wrong = "belongs to another user"
    elif found.st_mode & 0o022:
        wrong = "can be written by others"
    else:
        return
    raise StoreError(f"{folder} {wrong}: remove it, or set TMPDIR to a folder of your own")
