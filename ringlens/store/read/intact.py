"""Verifies files against the manifest's checksums when a process reads them for the first time.

Most flipped bits still decode: of 200 in a file of ``routing``, 168 gave wrong rows and no error,
as DuckDB ignores the checksums of pages. So a committed file is compared with the manifest's
checksum before it is read, once per process for each state of the file on the disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pyarrow as pa

from ringlens.errors import ConfigError, StoreError
from ringlens.store.manifest.entries import File
from ringlens.store.storage import parquet
from ringlens.store.storage.failure import DamageError
from ringlens.store.storage.folder import Folder

VERIFIED_BYTES = 2**30
"""Bytes that one query verifies by default: half a second of CPU, once per process."""

VARIABLE = "RINGLENS_VERIFY"
"""Environment variable: 1 verifies all files whatever their size, 0 none."""

_KNOWN = "crc32:"
_THREADS = 4

_intact: dict[tuple[str, Hashable], tuple[int, str | None]] = {}
"""Size and checksum of files that were found intact, by their address and state on the disk."""


def wanted(verify: bool | None = None) -> bool | None:
    """Decide which files are verified: all if True, none if False, cheap ones if None.

    Args:
        verify: The caller's choice; None leaves it to the environment.

    Raises:
        ConfigError: The environment variable is neither 0 nor 1.
    """
    if verify is not None:
        return verify
    text = os.environ.get(VARIABLE, "")
    if text not in ("", "0", "1"):
        raise ConfigError(
            f"{VARIABLE} is {text!r}: set it to 1 (verify all files) or 0, or unset it"
        )
    return None if text == "" else text == "1"


def require(folder: Folder, files: Iterable[File]) -> None:
    """Check that files are what was committed, before their rows are read or rewritten.

    Raises:
        DamageError: A file is missing or differs; the message names it.
    """
    new = [file for file in files if not is_known(folder, file)]
    for found, file in zip(_faults(folder, new), new, strict=True):
        if found is not None:
            raise DamageError(message(folder, file, found))


def is_known(folder: Folder, file: File) -> bool:
    """Whether this process has found a file intact in its current state on the disk."""
    try:
        return _intact.get((_address(folder, file), folder.state(file.path))) == _expected(file)
    except OSError:
        return False


def fault(folder: Folder, file: File) -> str | None:
    """What is wrong with a file, as a phrase to follow its name; None if it is intact."""
    try:
        # Taken before the bytes are read: if the file changes meanwhile, the note below is of a
        # state that is gone, and the next reader looks again.
        state = folder.state(file.path)
        if found := size_fault(folder, file):
            return found
        # A file of format 1 has no checksum, and a later ringlens may write another kind.
        comparable = file.checksum is not None and file.checksum.startswith(_KNOWN)
        if comparable and parquet.checksum(folder.source(file.path)) != file.checksum:
            return "is damaged (its checksum is not the one that was committed)"
    except (OSError, pa.ArrowException) as error:
        return f"is damaged ({str(error).splitlines()[0]})"
    _intact[_address(folder, file), state] = _expected(file)
    return None


def size_fault(folder: Folder, file: File) -> str | None:
    """What is wrong with a file, judged by its presence and size alone; None if nothing."""
    try:
        size = folder.size(file.path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"is damaged ({error})"
    return None if size == file.bytes else f"is damaged ({size} bytes instead of {file.bytes})"


def message(folder: Folder, file: File, fault: str) -> str:
    """Message about a file that cannot be read, or must not be."""
    whose = f"traces {file.first_trace} to {file.last_trace}" if file.last_trace else "its run"
    return (
        f"{folder}/{file.path} {fault}: restore a copy of it, or see what `ringlens check` "
        f"advises; it holds {file.table} of {whose}, the other files can still be read"
    )


class Guard:
    """Verifies files before DuckDB opens them; a SQL function that returns its argument.

    ``read_parquet(ringlens_intact(['a', 'b']))`` reads the same files as ``read_parquet(['a',
    'b'])``. DuckDB evaluates the arguments of ``read_parquet`` when it binds a query, so every
    query passes through here, whether it reaches a table by a view, a macro or ``query()``.

    Args:
        folder: The store's folder.
        verify: Result of `wanted`.
    """

    NAME = "ringlens_intact"

    def __init__(self, folder: Folder, verify: bool | None) -> None:
        self._folder, self._verify = folder, verify
        self._files: dict[str, File] = {}
        self._thread = threading.local()

    def watch(self, files: dict[str, File]) -> None:
        """Add committed files, by the path under which DuckDB opens them."""
        self._files |= files

    def __call__(self, paths: list[str]) -> list[str]:
        """Verify files and return their paths.

        Raises:
            StoreError: A file is not what was committed.
        """
        if not getattr(self._thread, "paused", False):
            self.verify(self._files[path] for path in paths if path in self._files)
        return paths

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Skip verification in this thread: to make views, or if the caller checks the files."""
        before = getattr(self._thread, "paused", False)
        self._thread.paused = True
        try:
            yield
        finally:
            self._thread.paused = before

    def verify(self, files: Iterable[File]) -> None:
        """Verify files before they are read: their checksums as configured, their size always.

        Missing files are left to DuckDB: they may have been replaced and deleted long ago.

        Raises:
            StoreError: A file is not what was committed.
        """
        local = self._folder.is_local  # elsewhere every byte is a download, every look a request
        new = [file for file in files if not is_known(self._folder, file)]
        limit = VERIFIED_BYTES if local else 0
        if self._verify or (self._verify is None and sum(file.bytes for file in new) <= limit):
            faults = _faults(self._folder, new)
        else:
            faults = [size_fault(self._folder, file) if local else None for file in new]
        for found, file in zip(faults, new, strict=True):
            if found not in (None, "is missing"):
                raise StoreError(message(self._folder, file, str(found)))


def _faults(folder: Folder, files: Sequence[File]) -> list[str | None]:
    check = partial(fault, folder)
    if sum(file.bytes for file in files) < 2**22:  # threads would cost more than they save
        return [check(file) for file in files]
    with ThreadPoolExecutor(_THREADS) as pool:  # zlib releases the GIL while it computes CRC-32
        return list(pool.map(check, files))


def _address(folder: Folder, file: File) -> str:
    return f"{folder.address}/{file.path}"


def _expected(file: File) -> tuple[int, str | None]:
    return file.bytes, file.checksum
