"""SharedDisk: a store in a folder that several machines mount, such as NFS.

SQLite's write-ahead log needs shared memory and so works on one machine only; here the manifest is
an object log. A local path to such a store opens it as well.
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
        """Contents of files; None where there is none."""
        return [self._read_if_there(path) for path in paths]

    def create(self, path: str, content: bytes) -> None:
        """Make a file with its content, unless there is one.

        A link either is made or is not, also on NFS, and readers see no half of the file.
        """
        temporary = self._written(path, content)
        try:
            os.link(temporary, self.path / path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            raise OSError(
                "its file system has no hard links, by which writers take turns: give a store on "
                "another one, or on an S3 server"
            ) from error
        finally:
            temporary.unlink()
        parquet.flush((self.path / path).parent)

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file."""
        os.replace(self._written(path, content), self.path / path)

    def modified(self, path: str) -> datetime:
        """When a file was written last, by the file server's clock."""
        return datetime.fromtimestamp((self.path / path).stat().st_mtime, UTC)

    def upload(self, staged: Path, path: str) -> None:
        """Copy a file to a path in the store, and wait until the disk has it."""
        final = self.path / path
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staged, final)
        for each in (final, final.parent, final.parent.parent, self.path):
            parquet.flush(each)

    def _read_if_there(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def _written(self, path: str, content: bytes) -> Path:
        """A new file next to ``path``, on the disk."""
        temporary = self.path / f"{path}.{secrets.token_hex(8)}"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        parquet.flush(temporary)
        return temporary


def is_shared(path: str | Path) -> bool:
    """Whether the store in a folder has an object log."""
    return (Path(path) / object_log.FOLDER).is_dir()
