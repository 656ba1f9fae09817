"""Lease: what says that a writer is alive where no file lock reaches.

A writer makes ``writers/<name>`` and writes it anew every few seconds. It counts as dead once that
is older than a minute, by the server's clock: nobody's own clock is asked.
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

BEAT = 10.0
"""Seconds between two renewals."""

TIMEOUT = 60.0
"""Seconds without a renewal after which a writer counts as dead."""


class Objects(Protocol):
    """What leases ask of a store's folder."""

    def create(self, path: str, content: bytes) -> None:
        """Make a file; FileExistsError if there is one."""

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    def modified(self, path: str) -> datetime:
        """When the server says that a file was written last."""


class Lease:
    """The lease of one writer.

    Args:
        objects: Where the store lives.
        lock: A file lock of the writer on this machine, which tells the writers here at once when
            the process is gone.

    Attributes:
        name: The writer's name.

    Raises:
        StoreError: The server replaces what it was asked to create only if it is missing.
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
        """Say that the writer has ended."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # else it runs out
            self._objects.remove(path_of(self.name))
        self._lock.release()

    def _renew(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(OSError):  # the server may be back before the lease has run out
                self._objects.write(path_of(self.name), self._content)

    def _check_exclusive(self) -> None:
        """A server that ignores the condition would let two writers take the same entry."""
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
    """Those of some writers whose lease is gone or has run out; leases that ran out are removed."""
    if not names:
        return set()
    clock = f"{FOLDER}/clock"
    objects.write(clock, b"")  # what is written now says what time it is on the server
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
    """Path of a writer's lease in the store."""
    return f"{FOLDER}/{name}"
