"""File locks that show which writers are alive: the kernel releases them with the process."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path


class WriterLock:
    """The lock of one writer, ``<name>.lock`` in the staging folder.

    A process id would not do: ids are reused, and mean nothing in other containers.
    """

    def __init__(self, staging: Path) -> None:
        self._staging = staging
        while True:
            self.name = secrets.token_hex(8)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            # Between open and flock, another writer may have taken the unlocked file for a dead
            # writer's and removed it. A lock on a file without a name protects nothing: retry.
            if os.fstat(self._handle).st_nlink:
                return
            os.close(self._handle)

    @property
    def path(self) -> Path:
        """Path of the lock file."""
        return self._staging / f"{self.name}.lock"

    def release(self) -> None:
        """Remove the lock file, then release the lock."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


def dead_writers(staging: Path, names: set[str]) -> set[str]:
    """The writers among ``names`` whose process has ended; their lock files are removed.

    A writer creates its lock file before its name appears anywhere, so no lock file means dead.
    """
    locked = {path.stem for path in staging.glob("*.lock")}
    return names & {name for name in names | locked if _is_dead(staging / f"{name}.lock")}


def _is_dead(path: Path) -> bool:
    try:
        # Neither follow a link nor wait for a pipe: the staging folder of an untrusted store may
        # hold either.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        # Shared: two processes that look at once must not take each other for the writer.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(OSError):  # a reader without write permission cannot remove it
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
