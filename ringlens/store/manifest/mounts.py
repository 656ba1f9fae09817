"""Which file system a folder lies on: on one that machines share, SQLite's manifest is not safe."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path

from ringlens.errors import StoreError

MOUNTS = Path("/proc/self/mountinfo")

SHARED = {
    *("afs", "beegfs", "ceph", "cifs", "coda", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs"),
    *("lustre", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs"),
    *("gcsfuse", "goofys", "juicefs", "s3fs", "sshfs", "wekafs"),
}
"""File systems that several machines can have mounted, perhaps with ``fuse.`` before the name."""


def file_system(path: Path) -> str | None:
    """The type of the file system that a path lies on, as ``mount`` calls it; None if unknown.

    The path itself need not exist.
    """
    try:
        lines = MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # no Linux
        return None
    found: tuple[int, str] | None = None
    resolved = path.resolve()
    for line in lines:
        place, kind = _mount(line)
        depth = len(place.parts)
        # Of several mounts on one place the last hides the others.
        if resolved.is_relative_to(place) and (found is None or depth >= found[0]):
            found = (depth, kind)
    return found and found[1]


def refuse_shared(manifest: Path) -> None:
    """Refuse SQLite's manifest on a file system that machines share.

    Its write-ahead log needs memory that all writers share, so commits of several machines may get
    lost; and file locks may hold on one machine only.

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
        f"{path} is on a file system that machines share ({kind}), where the manifest of a local "
        f"store may lose commits: {advice}"
    )


def write_ahead(connection: sqlite3.Connection, manifest: Path) -> None:
    """Let SQLite keep a write-ahead log.

    Raises:
        StoreError: The file system lacks the shared memory for it.
        OSError: It is read-only, which SQLite does not say.
    """
    try:
        (mode,) = connection.execute("pragma journal_mode = wal").fetchone()
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


def _mount(line: str) -> tuple[Path, str]:
    """Place and type of one line of mountinfo."""
    fields, _, rest = line.partition(" - ")
    place = fields.split(" ")[4]
    for letter in " \t\n\\":  # written in octal
        place = place.replace(f"\\{ord(letter):03o}", letter)
    return Path(place), rest.split(" ")[0]


def refuse_pipes(manifest: Path) -> None:
    """Refuse what is no file in the place of the manifest: SQLite would read from it for ever.

    Raises:
        OSError: There is a pipe, a device or a folder.
    """
    for suffix in ("", "-wal", "-shm", "-journal"):
        place = manifest.with_name(manifest.name + suffix)
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(place.stat().st_mode):
                raise OSError(f"{place.name} is no file but a folder, pipe, socket or device")
