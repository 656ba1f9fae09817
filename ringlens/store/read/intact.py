"""Is a file what was committed? Asked when a process reads it for the first time.

A flipped bit mostly decodes: of 200 in a file of ``routing``, 168 gave other rows and no error, as
DuckDB does not look at the checksums of pages. So whatever reads a committed file compares it with
the manifest's checksum first, once in a process for each state of the file on the disk.
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

MOST = 2**30
"""Bytes that one query may have verified unasked: half a second of CPU, once in a process."""

VARIABLE = "RINGLENS_VERIFY"
"""Environment variable: 1 verifies files whatever their size, 0 none."""

_KNOWN = "crc32:"
_THREADS = 4

_intact: dict[tuple[str, Hashable], tuple[int, str | None]] = {}
"""By address of a file and its state on the disk: the size and checksum that it was found with."""


def wanted(verify: bool | None = None) -> bool | None:
    """Whether files are verified: True all, False none, None those that are read at little cost.

    Args:
        verify: What was asked for; where nothing was, the environment decides.

    Raises:
        ConfigError: The environment says neither 0 nor 1.
    """
    if verify is not None:
        return verify
    text = os.environ.get(VARIABLE, "")
    if text not in ("", "0", "1"):
        raise ConfigError(f"{VARIABLE} is {text!r}: set it to 1 (verify all files), to 0 or not")
    return None if text == "" else text == "1"


def require(folder: Folder, files: Iterable[File]) -> None:
    """Make sure that files are what was committed, before rows of theirs are read or written anew.

    Raises:
        DamageError: One is missing or is not; the sentence names it.
    """
    new = [file for file in files if not is_known(folder, file)]
    for found, file in zip(_faults(folder, new), new, strict=True):
        if found is not None:
            raise DamageError(sentence(folder, file, found))


def is_known(folder: Folder, file: File) -> bool:
    """Whether this process found a file intact, as it is on the disk now."""
    try:
        return _intact.get((_place(folder, file), folder.state(file.path))) == _noted(file)
    except OSError:
        return False


def fault(folder: Folder, file: File) -> str | None:
    """What is wrong with a file, as it follows its name; None if it is what was committed."""
    try:
        state = folder.state(file.path)
        if found := size_fault(folder, file):
            return found
        # One of format 1 has no checksum, one of a later ringlens perhaps another kind of it.
        comparable = file.checksum is not None and file.checksum.startswith(_KNOWN)
        if comparable and parquet.checksum(folder.source(file.path)) != file.checksum:
            return "is damaged (its checksum is not the one that was committed)"
    except (OSError, pa.ArrowException) as error:
        return f"is damaged ({str(error).splitlines()[0]})"
    _intact[_place(folder, file), state] = _noted(file)
    return None


def size_fault(folder: Folder, file: File) -> str | None:
    """What a look at the folder alone shows to be wrong with a file."""
    try:
        size = folder.size(file.path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"is damaged ({error})"
    return None if size == file.bytes else f"is damaged ({size} bytes instead of {file.bytes})"


def sentence(folder: Folder, file: File, fault: str) -> str:
    """A sentence about a file that cannot be read, or must not be."""
    whose = f"traces {file.first_trace} to {file.last_trace}" if file.last_trace else "its run"
    return (
        f"{folder}/{file.path} {fault}: put a copy of it back, or see what `ringlens check` "
        f"advises; it holds {file.table} of {whose}, what other files hold can still be read"
    )


class Guard:
    """Stands before the files that DuckDB opens: a function in SQL, called when a query is bound.

    ``read_parquet(ringlens_intact(['a', 'b']))`` reads the same files as ``read_parquet(['a',
    'b'])``. Whichever way a query takes to a table, by a view, a macro or ``query()``, it comes
    past here.

    Args:
        folder: The store.
        verify: As `wanted` gave it.
    """

    NAME = "ringlens_intact"

    def __init__(self, folder: Folder, verify: bool | None) -> None:
        self._folder, self._verify = folder, verify
        self._files: dict[str, File] = {}
        self._thread = threading.local()

    def know(self, files: dict[str, File]) -> None:
        """Told of committed files, by the path by which DuckDB opens them."""
        self._files |= files

    def __call__(self, paths: list[str]) -> list[str]:
        """The paths, once the files are found intact.

        Raises:
            StoreError: One is not what was committed.
        """
        if not getattr(self._thread, "sleeps", False):
            self.look(self._files[path] for path in paths if path in self._files)
        return paths

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Let this thread make views, which reads nothing, or check files by itself."""
        before = getattr(self._thread, "sleeps", False)
        self._thread.sleeps = True
        try:
            yield
        finally:
            self._thread.sleeps = before

    def look(self, files: Iterable[File]) -> None:
        """Verify files that are to be read, as far as that was asked for; their size always.

        What is missing is left to DuckDB: it may have been replaced, and deleted, long since.

        Raises:
            StoreError: One is not what was committed.
        """
        local = self._folder.is_local  # elsewhere each byte is a download, and each look a request
        new = [file for file in files if not is_known(self._folder, file)]
        most = MOST if local else 0
        if self._verify or (self._verify is None and sum(file.bytes for file in new) <= most):
            look = _faults(self._folder, new)
        else:
            look = [size_fault(self._folder, file) if local else None for file in new]
        for found, file in zip(look, new, strict=True):
            if found not in (None, "is missing"):
                raise StoreError(sentence(self._folder, file, str(found)))


def _faults(folder: Folder, files: Sequence[File]) -> list[str | None]:
    look = partial(fault, folder)
    if sum(file.bytes for file in files) < 2**22:
        return [look(file) for file in files]
    with ThreadPoolExecutor(_THREADS) as pool:  # CRC-32 leaves the interpreter free
        return list(pool.map(look, files))


def _place(folder: Folder, file: File) -> str:
    return f"{folder.address}/{file.path}"


def _noted(file: File) -> tuple[int, str | None]:
    return file.bytes, file.checksum
