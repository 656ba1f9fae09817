"""Which writers are alive: each holds a file lock, which the kernel drops with the process."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path


class WriterLock:
    """The lock of one writer, ``<name>.lock`` in the staging folder.

    A process id would not do: ids are reused, and mean nothing in another container.
    """

    def __init__(self, staging: Path) -> None:
        self._staging = staging
        while True:
            self.name = secrets.token_hex(8)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            if os.fstat(self._handle).st_nlink:
                return  # else another writer took it for dead before it was locked
            os.close(self._handle)

    @property
    def path(self) -> Path:
        """The lock file."""
        return self._staging / f"{self.name}.lock"

    def release(self) -> None:
        """Remove the lock file and let go of it."""
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


def dead_writers(staging: Path, names: set[str]) -> set[str]:
    """Those of ``names`` whose process is gone; lock files without a process are removed.

    A writer makes its lock file before its name appears anywhere, so no lock file means dead.
    """
    locked = {path.stem for path in staging.glob("*.lock")}
    return names & {name for name in names | locked if _is_dead(staging / f"{name}.lock")}


def _is_dead(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        # Shared: two processes that look at once must not take each other for the writer.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with suppress(OSError):  # whoever may only read leaves it there
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
