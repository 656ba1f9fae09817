"""Detects file systems that several machines share, on which a SQLite manifest is not safe."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from contextlib import suppress
from pathlib import Path

from ringlens.errors import StoreError

WAIT = 60.0
"""Seconds for which other writers are waited for."""

MOUNTS = Path("/proc/self/mountinfo")

SHARED = {
    *("afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs"),
    *("lustre", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs"),
    *("gcsfuse", "goofys", "juicefs", "s3fs", "sshfs", "wekafs"),
}
"""File systems that several machines can mount, perhaps with a ``fuse.`` prefix."""


def file_system(path: Path) -> str | None:
    """Type of the file system of a path, as ``mount`` prints it; None if unknown.

    The path itself need not exist.
    """
    try:
        lines = MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not on Linux
        return None
    found: tuple[int, str] | None = None
    resolved = path.resolve()
    for line in lines:
        place, kind = _mount(line)
        depth = len(place.parts)
        # The deepest mount point wins; of several mounts on one point, the last hides the others.
        if resolved.is_relative_to(place) and (found is None or depth >= found[0]):
            found = (depth, kind)
    return found and found[1]


def refuse_shared(manifest: Path) -> None:
    """Refuse a SQLite manifest on a file system that several machines share.

    SQLite's write-ahead log needs memory that all writers share, so commits from several machines
    could get lost; and file locks may hold on one machine only.

    Raises:
        StoreError: The file is, or would be, on such a file system.
    """
    path, kind = manifest.parent, file_system(manifest) or ""
    if kind.removeprefix("fuse.") not in SHARED:
        return
    advice = (
        "copy it to a disk of this machine to add to it, or write to file:// and a new folder"
        if manifest.exists()
        else f"give file://{path}, whose manifest needs neither shared memory nor locks"
    )
    raise StoreError(
        f"{path} is on a file system that several machines share ({kind}), where the manifest of "
        f"a local store may lose commits: {advice}"
    )


def write_ahead(connection: sqlite3.Connection, manifest: Path) -> None:
    """Switch SQLite to a write-ahead log, so that readers and a writer do not block each other.

    Raises:
        StoreError: The file system lacks the shared memory that the log needs.
        OSError: The file system is read-only, which SQLite does not report as such.
    """
    try:
        mode = _switched(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if os.statvfs(manifest.parent).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(manifest)) from error
        raise
    if mode != "wal":
        connection.close()
        raise StoreError(
            f"{manifest.parent} is on a file system without the shared memory that SQLite's "
            f"write-ahead log needs: give file://{manifest.parent}, or a folder on another disk"
        )


def _switched(connection: sqlite3.Connection) -> str:
    """Switch, and return the mode that the manifest then has.

    While another process switches, SQLite is busy at once: here alone it does not wait.
    """
    end = time.monotonic() + WAIT
    while True:
        try:
            return str(connection.execute("pragma journal_mode = wal").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _mount(line: str) -> tuple[Path, str]:
    """Mount point and file system type of one line of mountinfo."""
    fields, _, rest = line.partition(" - ")  # optional fields of any number end with this dash
    place = fields.split(" ")[4]
    for letter in " \t\n\\":  # mountinfo escapes these as octal; the backslash has to come last
        place = place.replace(f"\\{ord(letter):03o}", letter)
    return Path(place), rest.split(" ")[0]


def refuse_pipes(manifest: Path) -> None:
    """Refuse a manifest that is not a regular file: SQLite would read from a pipe forever.

    Raises:
        OSError: The manifest or one of its companions is a pipe, device or folder.
    """
    for suffix in ("", "-wal", "-shm", "-journal"):
        place = manifest.with_name(manifest.name + suffix)
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(place.stat().st_mode):
                raise OSError(f"{place.name} is a folder, pipe, socket or device, not a file")
