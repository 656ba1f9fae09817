"""Where things lie in a store folder, and the file that says it is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ringlens.errors import StoreError
from ringlens.store.manifest import object_log
from ringlens.store.manifest.clock import now
from ringlens.store.manifest.manifest import NAME
from ringlens.store.schema.captured import FORMAT_VERSION, tables
from ringlens.store.storage import lease
from ringlens.store.storage.failure import sentences
from ringlens.store.storage.folder import Folder
from ringlens.versions import version_of

MARKER = "store.json"

LONGEST = 2**20
"""Bytes of `MARKER`, at most."""


def table_names() -> tuple[str, ...]:
    """All table folders."""
    return tuple(table.name for table in tables())


def file_path(table: str, run_id: str, commit_id: int, part: str = "") -> str:
    """Path in the store of a file that a commit writes for a table.

    ``part`` tells the files of one commit and table apart: those of ranks above 0 ("-r1"), of
    shares of a large table ("-s1"), and the one with rows that were taken over from replaced files
    ("-kept").
    """
    return f"{table}/run={run_id}/part-{commit_id:08d}{part}.parquet"


def staged_name(path: str, writer: str) -> str:
    """Name of the same file while it is staged; never ends in .parquet."""
    table, *_, name = path.split("/")
    return f"{writer}-{Path(name).stem.removeprefix('part-')}-{table}.part"


def part_of(rank: int) -> str:
    """What tells the files of a rank apart."""
    return f"-r{rank}" if rank else ""


def part_of_share(index: int) -> str:
    """What tells the files of one table apart that were encoded side by side."""
    return f"-s{index}" if index else ""


def left_behind(folder: Folder, run_id: str, commit_id: int) -> Iterator[str]:
    """Paths of all files that a commit can have left where they belong, of every rank."""
    mine = (f"part-{commit_id:08d}.", f"part-{commit_id:08d}-")
    for table in table_names():
        place = f"{table}/run={run_id}"
        for name in folder.names(place):
            if name.startswith(mine):
                yield f"{place}/{name}"


def prepare(folder: Folder) -> None:
    """Make the folder that a writer needs.

    Raises:
        StoreError: The folder holds other things, or a store of a newer format.
    """
    folder.make()
    if folder.exists(MARKER):
        read_marker(folder)
    elif foreign := foreign_names(folder):
        raise StoreError(
            f"{folder} is not a store and holds other files (such as {foreign[0]}): give the "
            f"path of a new or empty folder"
        )


def foreign_names(folder: Folder) -> list[str]:
    """What lies in a folder that no store has there; a store can be made where there is none."""
    return [name for name in folder.names() if not _is_ours(name)]


def mark(folder: Folder) -> None:
    """Say that a folder is a store of this format, once all else of it is there."""
    marker = {
        "format_version": FORMAT_VERSION,
        "created_by": f"ringlens {version_of('ringlens')}",
        "created": now(),
    }
    if folder.exists(MARKER):
        found = read_marker(folder)
        if found["format_version"] == FORMAT_VERSION:
            return
        marker = found | {"format_version": FORMAT_VERSION}
    folder.write(MARKER, (json.dumps(marker, indent=2) + "\n").encode())


def read_marker(folder: Folder) -> dict[str, Any]:
    """What a store says of itself: ``format_version``, and mostly ``created_by``, ``created``.

    Raises:
        StoreError: It is missing, no store, damaged or of a newer format.
    """
    with sentences(folder, "the store was not opened"):
        if folder.is_local and folder.exists(MARKER) and folder.size(MARKER) > LONGEST:
            raise StoreError(f"{folder}/{MARKER} is damaged: it has more than {LONGEST:,} bytes")
        content = _marker(folder)
    try:
        found = json.loads(content)
        number = found["format_version"]
        if isinstance(number, bool) or (isinstance(number, int) and number < 1):
            raise ValueError(number)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise StoreError(
            f"{folder}/{MARKER} is damaged: it should read "
            f'{{"format_version": {FORMAT_VERSION}}} or what a copy of the store holds'
        ) from None
    if not isinstance(number, int) or number > FORMAT_VERSION:
        raise StoreError(
            f"the store {folder} has format version {number!r:.40}, this ringlens reads up to "
            f"{FORMAT_VERSION}: upgrade with `pip install --upgrade ringlens`"
        )
    return dict(found)


def _marker(folder: Folder) -> bytes:
    try:
        return folder.read(MARKER)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        there = folder.is_there()
    if there:
        raise StoreError(
            f"{folder} is not a store (it has no {MARKER}): give the folder that was passed to "
            f"`ringlens capture --store`"
        )
    raise StoreError(
        f"there is no store at {folder}: `ringlens capture … --store {folder}` makes one"
    )


def _is_ours(name: str) -> bool:
    """Whether a name can come from another writer that is making the store right now."""
    known = ("staging", object_log.FOLDER, lease.FOLDER, *table_names())
    return name in known or name.startswith((MARKER, NAME))
