"""SharedDisk: a store in a folder that several machines mount, such as NFS.

SQLite's write-ahead log needs shared memory and so works on one machine only; the manifest here is
an object log. A plain path to such a store opens it too.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ringlens.store.manifest import object_log
from ringlens.store.storage import parquet
from ringlens.store.storage.local import LocalFiles
from ringlens.store.storage.remote import RemoteFolder

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class SharedDisk(LocalFiles, RemoteFolder):
    """A folder of a file system that several machines share; ``file://`` and its path."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.address = f"file://{self.path}"

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files; None for a file that does not exist."""
        return [self._read_if_there(path) for path in paths]

    def create(self, path: str, content: bytes) -> None:
        """Create a file; FileExistsError if it exists.

        Making a hard link is atomic, even on NFS, and readers never see part of the file.
        """
        temporary = self._written(path, content)
        try:
            os.link(temporary, self.path / path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            raise OSError(
                "its file system has no hard links, which writers need to take turns: give a store "
                "on another file system, or on an S3 server"
            ) from error
        finally:
            temporary.unlink()
        parquet.flush((self.path / path).parent)

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file atomically."""
        os.replace(self._written(path, content), self.path / path)

    def modified(self, path: str) -> datetime:
        """When a file was last written, by the file server's clock."""
        return datetime.fromtimestamp((self.path / path).stat().st_mtime, UTC)

    def upload(self, staged: Path, path: str) -> None:
        """Copy a local file to a path in the store, and flush it to the disk."""
        final = self.path / path
        final.parent.mkdir(parents=True, exist_ok=True)
        # In place, without a rename: no reader opens the path before the manifest lists it.
        shutil.copyfile(staged, final)
        for each in (final, final.parent, final.parent.parent, self.path):
            parquet.flush(each)

    def _read_if_there(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def _written(self, path: str, content: bytes) -> Path:
        """Write a temporary file next to ``path`` and flush it to the disk."""
        temporary = self.path / f"{path}.{secrets.token_hex(8)}"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        parquet.flush(temporary)
        return temporary


def is_shared(path: str | Path) -> bool:
    """Whether a folder holds a store whose manifest is an object log."""
    return (Path(path) / object_log.FOLDER).is_dir()
