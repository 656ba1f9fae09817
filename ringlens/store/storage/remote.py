"""Remote folders: a store on a server, or on a disk that several machines share.

Files are encoded in a folder of this machine and uploaded under their final names, where nobody
looks for them before the manifest lists them. The manifest is an object log.
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
"""Seconds for which a reader takes the manifest as it saw it last; a look costs a request."""


class RemoteFolder(ABC):
    """What all remote folders share; see `ringlens.store.storage.folder.Folder`.

    Attributes:
        address: What opens it again.
        name: Its last part.
    """

    address: str
    name: str

    def __str__(self) -> str:
        return self.address

    @cached_property
    def staging(self) -> Path:
        """A folder of this user on this machine, one for each store."""
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:16]
        own = Path(tempfile.gettempdir()) / f"ringlens-{os.getuid()}"
        for folder in (own, own / digest):
            _make_own(folder)
        return own / digest

    def open_manifest(self) -> Manifest:
        """The manifest, for reading: at most FRESH seconds old."""
        return Manifest.in_memory(partial(ObjectLog, self, fresh=FRESH))

    def make_manifest(self) -> Manifest:
        """The manifest, for writing."""
        return Manifest.in_memory(partial(ObjectLog, self))

    def lock(self) -> lease.Lease:
        """A lease, and a file lock for the other writers of this machine."""
        lock = WriterLock(self.staging)
        try:
            return lease.Lease(self, lock)
        except BaseException:
            lock.release()
            raise

    def is_locked(self, name: str) -> bool:
        """Whether this process sees the lease of a writer."""
        return self.exists(lease.path_of(name))

    def dead_writers(self, names: set[str]) -> set[str]:
        """Those of some writers that are gone: at once on this machine, else by their lease."""
        here = {path.stem for path in self.staging.glob("*.lock")}
        dead = dead_writers(self.staging, here)
        for name in dead:
            self.remove(lease.path_of(name))
        return names & (dead | lease.expired(self, names - here))

    def hand_over(self, staged: Path, path: str) -> None:
        """Upload a file to where it belongs."""
        try:
            self.upload(staged, path)
        finally:
            staged.unlink(missing_ok=True)

    def publish(self, moves: Iterable[Move]) -> None:  # noqa: B027  there is nothing to do
        """Nothing to do: `hand_over` has uploaded each."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file, as a whole."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> None:
        """Make a file; FileExistsError if there is one. Of several that try one succeeds."""

    @abstractmethod
    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files; None where there is none."""

    @abstractmethod
    def modified(self, path: str) -> datetime:
        """When a file was written last, by the server's clock."""

    @abstractmethod
    def upload(self, staged: Path, path: str) -> None:
        """Copy a file of this machine to a path in the store."""


def _make_own(folder: Path) -> None:
    """Make a folder of this user alone, in a place where others may have put something.

    Its name cannot be random, as the writers of this machine find each other there.

    Raises:
        StoreError: What is there is a link, no folder, another user's, or open to others.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    found = folder.lstat()  # of a link itself, not of what it leads to
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        wrong = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    elif found.st_uid != os.getuid():
        wrong = "belongs to another user"
    elif found.st_mode & 0o022:
        wrong = "can be written by others"
    else:
        return
    raise StoreError(f"{folder} {wrong}: remove it, or set TMPDIR to a folder of your own")
