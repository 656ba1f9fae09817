"""Bucket: a store at any address that fsspec knows, such as ``s3://bucket/runs/first``."""

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

_ALL = 2**40
"""The end of a range that is the whole file. Without a range, s3fs looks up the size first."""

_memory = threading.RLock()
"""Files in memory are single objects with one position each: one call at a time."""

_HINTS = {
    "s3": (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a server other than "
        "AWS also AWS_ENDPOINT_URL; for a public bucket FSSPEC_S3_ANON=true"
    )
}

_INSTALL = {"s3": "pip install 'ringlens[s3]'", "s3a": "pip install 'ringlens[s3]'"}


class Bucket(RemoteFolder):
    """A folder of an fsspec file system; its credentials come from where fsspec takes them.

    Raises:
        StoreError: Nothing is installed for such an address.
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
        """There is none."""
        raise StoreError(f"{self} is not a folder of this machine: use `.address`")

    def is_there(self) -> bool:
        """Whether anything lies at the address; FileNotFoundError if even its bucket is missing."""
        return bool(self.names())

    def make(self) -> None:
        """Nothing to do: there are no empty folders. StoreError if it cannot be written safely."""
        if not _creates(self._fs):
            raise StoreError(
                f"{self} can be read but not written: nothing is known that creates a file there "
                f"only if it is missing. Write to s3://, file:// or a folder and copy it"
            )

    def names(self, path: str = "") -> list[str]:
        """What lies directly in a folder of the store."""
        try:
            with self._calls():
                found = self._fs.ls(self._at(path), detail=False)
        except FileNotFoundError as error:
            if isinstance(error, _NoBucketError):
                raise
            return []
        places = {str(each).strip("/") for each in found} - {self._at(path).strip("/")}
        return sorted(place.rsplit("/", 1)[-1] for place in places)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with self._calls():
            return bool(self._fs.isfile(self._at(path)))

    def size(self, path: str) -> int:
        """Bytes of a file."""
        with self._calls():
            return int(self._fs.size(self._at(path)))

    def state(self, path: str) -> None:
        """Nothing: committed objects are never changed, and to ask costs a request."""

    def read(self, path: str) -> bytes:
        """A file's content."""
        with self._calls():
            return bytes(self._fs.cat_file(self._at(path), start=0, end=_ALL))

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files, fetched side by side; None where there is none."""
        places = [self._at(path) for path in paths]
        starts, ends = [0] * len(places), [_ALL] * len(places)
        with self._calls():
            found = self._fs.cat_ranges(places, starts, ends, on_error="return")
            for each in found:
                if isinstance(each, BaseException) and not isinstance(each, FileNotFoundError):
                    raise each
        return [None if isinstance(each, BaseException) else bytes(each) for each in found]

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file."""
        with self._calls():
            self._fs.pipe_file(self._at(path), content)

    def create(self, path: str, content: bytes) -> None:
        """Make a file, unless there is one."""
        try:
            with self._calls():
                self._fs.pipe_file(self._at(path), content, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            if not isinstance(error, FileNotFoundError | PermissionError) and self.exists(path):
                raise FileExistsError(f"{self}/{path} is there") from error
            raise

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        try:
            with self._calls():
                self._fs.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def modified(self, path: str) -> datetime:
        """When a file was written last, by the server's clock."""
        with self._calls():
            found = self._fs.modified(self._at(path))
        assert isinstance(found, datetime)
        return found

    def upload(self, staged: Path, path: str) -> None:
        """Copy a file of this machine to a path in the store."""
        with self._calls():
            self._fs.put_file(str(staged), self._at(path))

    def source(self, path: str) -> RangeFile:
        """A file as ``pyarrow.parquet`` opens it."""
        # What is kept of it is passed by: the question may be whether the file is damaged.
        return RangeFile(self.size(path), partial(self._fetch, path))

    def sql_path(self, path: str) -> str:
        """A file as DuckDB opens it, on a connection that `serve` was called for."""
        return f"ringlens://{path}"

    def serve(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a connection read the store's files."""
        connection.register_filesystem(self._ranges)

    def know(self, files: Sequence[File]) -> None:
        """Tell sizes: no request is made to look them up."""
        self._ranges.sizes.update((file.path, file.bytes) for file in files)

    def _fetch(self, path: str, start: int, stop: int) -> bytes:
        with self._calls():
            return bytes(self._fs.cat_file(self._at(path), start=start, end=stop))

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @cached_property
    def _guard(self) -> AbstractContextManager:
        return _memory if _protocol(self.address) == "memory" else nullcontext()

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Calls of fsspec, whose failures become OSError whatever library they come from."""
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
            except Exception as error:
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
        # Listings are never kept: other processes write.
        return fsspec.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        install = _INSTALL.get(_protocol(address), f"install what fsspec asks for ({error})")
        raise StoreError(
            f"{address} cannot be opened without a further package: {install}"
        ) from error
    except ValueError as error:
        raise StoreError(f"{address} is no address that fsspec knows: {error}") from error
    except OSError as error:
        raise StoreError(f"{address} cannot be opened: {error}") from error


def _protocol(address: str) -> str:
    return address.split("://", 1)[0]


def _creates(fs: Any) -> bool:
    """Whether a file system has its own way to create a file only if it is missing.

    What fsspec does for those that have none is to look first, which two writers may do at once.
    Whether the server honours it is seen when a writer makes its lease.
    """
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._pipe_file is not AsyncFileSystem._pipe_file
    return type(fs).pipe_file is not fsspec.AbstractFileSystem.pipe_file
