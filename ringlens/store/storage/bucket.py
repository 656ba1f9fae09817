"""Bucket: a store at any address that fsspec supports, such as ``s3://bucket/runs/first``."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import duckdb
import fsspec
from fsspec.asyn import AsyncFileSystem

from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import File
from ringlens.store.storage.ranges import RangeFile, Ranges
from ringlens.store.storage.remote import RemoteFolder

_WHOLE_FILE = 2**40
"""End of a range that covers any file. Without a range, s3fs first asks for the size."""

_memory_lock = threading.RLock()
"""Serializes calls to fsspec's ``memory://``, where all readers of a file share one position."""

_HINTS = {
    "s3": (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a server other than "
        "AWS also AWS_ENDPOINT_URL; for a public bucket FSSPEC_S3_ANON=true"
    )
}

_INSTALL = {"s3": "pip install 'ringlens[s3]'", "s3a": "pip install 'ringlens[s3]'"}


class Bucket(RemoteFolder):
    """A folder of an fsspec file system, with the credentials that fsspec finds.

    Raises:
        StoreError: No installed package handles the address.
    """

    is_local = False

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._fs, root = _file_system(self.address)
        self._root = root.rstrip("/")
        self.name = self._root.rsplit("/", 1)[-1] or self.address
        self._ranges = Ranges(self._fetch, self.size)

    @property
    def path(self) -> Path:
        """Not available: a bucket has no path on this machine."""
        raise StoreError(f"{self} is not a folder of this machine: use `.address`")

    def is_there(self) -> bool:
        """Whether the address holds anything; FileNotFoundError if the bucket itself is missing."""
        return bool(self.names())

    def make(self) -> None:
        """Check that the bucket can be written safely; it has no folders to make.

        Raises:
            StoreError: The file system cannot create a file only if it is missing.
        """
        if not _creates_exclusively(self._fs):
            raise StoreError(
                f"{self} can be read but not written: its file system cannot create a file only "
                f"if it is missing. Write to s3://, file:// or a folder and copy it"
            )

    def names(self, path: str = "") -> list[str]:
        """Names of the direct children of a folder in the store."""
        try:
            with self._calls():
                found = self._fs.ls(self._at(path), detail=False)
        except FileNotFoundError as error:
            if isinstance(error, _NoBucketError):
                raise
            return []
        # Some file systems list the folder itself among its children.
        children = {str(each).strip("/") for each in found} - {self._at(path).strip("/")}
        return sorted(child.rsplit("/", 1)[-1] for child in children)

    def exists(self, path: str) -> bool:
        """Whether the file exists."""
        with self._calls():
            return bool(self._fs.isfile(self._at(path)))

    def size(self, path: str) -> int:
        """Size of a file in bytes."""
        with self._calls():
            return int(self._fs.size(self._at(path)))

    def state(self, path: str) -> None:
        """Always None: committed objects never change, and asking would cost a request."""

    def read(self, path: str) -> bytes:
        """Content of a file."""
        with self._calls():
            return bytes(self._fs.cat_file(self._at(path), start=0, end=_WHOLE_FILE))

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files, fetched concurrently; None for a file that does not exist."""
        keys = [self._at(path) for path in paths]
        starts, ends = [0] * len(keys), [_WHOLE_FILE] * len(keys)
        with self._calls():
            found = self._fs.cat_ranges(keys, starts, ends, on_error="return")
            for each in found:
                # Only a missing file means None: any other failure must not pass for one.
                if isinstance(each, BaseException) and not isinstance(each, FileNotFoundError):
                    raise each
        return [None if isinstance(each, BaseException) else bytes(each) for each in found]

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file."""
        with self._calls():
            self._fs.pipe_file(self._at(path), content)

    def create(self, path: str, content: bytes) -> None:
        """Create a file; FileExistsError if it exists."""
        try:
            with self._calls():
                self._fs.pipe_file(self._at(path), content, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            # Servers report a failed condition under different codes, so look for the file.
            if not isinstance(error, FileNotFoundError | PermissionError) and self.exists(path):
                raise FileExistsError(f"{self}/{path} already exists") from error
            raise

    def remove(self, path: str) -> None:
        """Remove a file if it exists."""
        try:
            with self._calls():
                self._fs.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def modified(self, path: str) -> datetime:
        """When a file was last written, by the server's clock."""
        with self._calls():
            found = self._fs.modified(self._at(path))
        assert isinstance(found, datetime)
        return found

    def upload(self, staged: Path, path: str) -> None:
        """Upload a local file to a path in the store."""
        with self._calls():
            self._fs.put_file(str(staged), self._at(path))

    def source(self, path: str) -> RangeFile:
        """A file, in the form that ``pyarrow.parquet`` opens."""
        # Bypasses the cached tails: the caller may be checking whether the file is damaged.
        return RangeFile(self.size(path), partial(self._fetch, path))

    def sql_path(self, path: str) -> str:
        """A file as DuckDB addresses it, on a connection given to `register_with`."""
        return f"ringlens://{path}"

    def register_with(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the store's files readable on a DuckDB connection."""
        connection.register_filesystem(self._ranges)

    def note_sizes(self, files: Sequence[File]) -> None:
        """Note sizes from the manifest, which saves the requests that would look them up."""
        self._ranges.sizes.update((file.path, file.bytes) for file in files)

    def _fetch(self, path: str, start: int, stop: int) -> bytes:
        with self._calls():
            return bytes(self._fs.cat_file(self._at(path), start=start, end=stop))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @cached_property
    def _guard(self) -> AbstractContextManager:
        return _memory_lock if _protocol(self.address) == "memory" else nullcontext()

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Turn failures of fsspec calls into OSError, whichever library raises them."""
        with self._guard:
            try:
                yield
            except FileNotFoundError as error:
                if "bucket does not exist" not in str(error):
                    raise
                raise _NoBucketError(
                    f"there is no bucket {self._root.split('/')[0]}: create it, or correct the "
                    f"address"
                ) from error
            except OSError:
                raise
            except Exception as error:  # botocore and others have exception families of their own
                hint = _HINTS.get(_protocol(self.address), "")
                credentials = "redential" in f"{type(error).__name__}{error}"
                raise OSError(
                    f"{error}: {hint}"
                    if credentials and hint
                    else f"{type(error).__name__}: {error}"
                ) from error


class _NoBucketError(FileNotFoundError):
    """The bucket itself is missing."""


def _file_system(address: str) -> tuple[Any, str]:
    try:
        # Never cache listings: other processes write to the same folder.
        return fsspec.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        install = _INSTALL.get(_protocol(address), f"install what fsspec asks for ({error})")
        raise StoreError(
            f"{address} cannot be opened without another package: {install}"
        ) from error
    except ValueError as error:
        raise StoreError(f"{address} is not an address that fsspec supports: {error}") from error
    except OSError as error:
        raise StoreError(f"{address} cannot be opened: {error}") from error


def _protocol(address: str) -> str:
    return address.split("://", 1)[0]


def _creates_exclusively(fs: Any) -> bool:
    """Whether a file system itself can create a file only if it is missing.

    fsspec's fallback looks first and then writes, which lets two writers both succeed. Whether the
    server honours the condition is tested when a writer creates its lease.
    """
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._pipe_file is not AsyncFileSystem._pipe_file
    return type(fs).pipe_file is not fsspec.AbstractFileSystem.pipe_file
