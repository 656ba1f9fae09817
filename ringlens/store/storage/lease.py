"""Lease: marks a writer as alive where file locks do not reach.

A writer creates ``writers/<name>`` and rewrites it every few seconds. It counts as dead once the
file is older than a minute. Only the server's clock is used, so clocks of machines may differ.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from ringlens.errors import StoreError
from ringlens.store.storage.lock import WriterLock

FOLDER = "writers"

RENEWAL = 10.0
"""Seconds between two renewals."""

TIMEOUT = 60.0
"""Seconds without a renewal after which a writer counts as dead."""


class Objects(Protocol):
    """The operations of a store's folder that leases need."""

    def create(self, path: str, content: bytes) -> None:
        """Create a file; FileExistsError if it exists."""

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file."""

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""

    def modified(self, path: str) -> datetime:
        """When a file was last written, by the server's clock."""


class Lease:
    """The lease of one writer.

    Args:
        objects: The store's folder.
        lock: The writer's file lock, which shows other writers on this machine at once when the
            process has ended.

    Attributes:
        name: The writer's name.

    Raises:
        StoreError: The server replaces a file that it was asked to create only if missing.
    """

    def __init__(self, objects: Objects, lock: WriterLock) -> None:
        self.name = lock.name
        self._objects, self._lock = objects, lock
        self._released = threading.Event()
        place = {"host": platform.node(), "pid": os.getpid()}
        self._content = json.dumps(place).encode()
        objects.create(path_of(self.name), self._content)
        self._check_exclusive()
        self._thread = threading.Thread(target=self._renew, name="ringlens-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Declare that the writer has ended."""
        self._released.set()
        self._thread.join()  # a late renewal would bring back the lease removed below
        with suppress(OSError):  # a lease that stays behind expires
            self._objects.remove(path_of(self.name))
        self._lock.release()

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL):
            with suppress(OSError):  # the server may recover before the lease expires
                self._objects.write(path_of(self.name), self._content)

    def _check_exclusive(self) -> None:
        """Check that the server refuses to create a file that exists.

        A server that ignores the condition would let two writers take the same log entry.
        """
        try:
            self._objects.create(path_of(self.name), self._content)
        except FileExistsError:
            return
        self._objects.remove(path_of(self.name))
        raise StoreError(
            f"{self._objects} replaces a file that was to be created only if it is missing, so "
            f"writers would overwrite each other: use a server that honours If-None-Match, or "
            f"write to a local store and copy it"
        )


def expired(objects: Objects, names: set[str]) -> set[str]:
    """The writers among ``names`` whose lease is gone or expired; expired leases are removed."""
    if not names:
        return set()
    clock = f"{FOLDER}/clock"
    # The server stamps what it writes: the time of a file written now is the server's time.
    objects.write(clock, b"")
    now = objects.modified(clock)
    return {name for name in names if _has_expired(objects, name, now)}


def _has_expired(objects: Objects, name: str, now: datetime) -> bool:
    try:
        age = (now - objects.modified(path_of(name))).total_seconds()
    except FileNotFoundError:
        return True
    if age > TIMEOUT:
        objects.remove(path_of(name))
    return age > TIMEOUT


def path_of(name: str) -> str:
    """Path of a writer's lease."""
    return f"{FOLDER}/{name}"
