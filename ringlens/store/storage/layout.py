"""Paths inside a store folder, and the marker file that identifies one."""

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
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import Folder
from ringlens.versions import version_of

MARKER = "store.json"

MAX_MARKER_BYTES = 2**20
"""Largest size of `MARKER` that is read."""


def table_names() -> tuple[str, ...]:
    """Names of all tables, which are the names of their folders."""
    return tuple(table.name for table in tables())


def file_path(table: str, run_id: str, commit_id: int, part: str = "") -> str:
    """Path in the store of a file that a commit writes for a table.

    ``part`` distinguishes the files of one commit and table: "-r1" for ranks above 0, "-s1" for
    further shares of a large table, "-kept" for rows carried over from replaced files.
    """
    return f"{table}/run={run_id}/part-{commit_id:08d}{part}.parquet"


def staged_name(path: str, writer: str) -> str:
    """Name of the same file while it is staged; never ends in ``.parquet``."""
    # Without the suffix, no reader or check that looks for Parquet files can pick it up.
    table, *_, name = path.split("/")
    return f"{writer}-{Path(name).stem.removeprefix('part-')}-{table}.part"


def part_of(rank: int) -> str:
    """Suffix of the files that a rank writes."""
    return f"-r{rank}" if rank else ""


def part_of_share(index: int) -> str:
    """Suffix of a file that holds one share of a table, encoded in parallel with the others."""
    return f"-s{index}" if index else ""


def left_behind(folder: Folder, run_id: str, commit_id: int) -> Iterator[str]:
    """Paths of all published files of an unfinished commit, of every rank."""
    # The separator is part of the prefix: "part-00000001" alone also starts part-000000010.
    prefixes = (f"part-{commit_id:08d}.", f"part-{commit_id:08d}-")
    for table in table_names():
        directory = f"{table}/run={run_id}"
        for name in folder.names(directory):
            if name.startswith(prefixes):
                yield f"{directory}/{name}"


def prepare(folder: Folder) -> None:
    """Create the folder for a writer.

    Raises:
        StoreError: The folder holds files that are not a store's, or a store of a newer format.
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
    """Names in a folder that do not belong to a store; a store can be created if there are none."""
    return [name for name in folder.names() if not _is_ours(name)]


def mark(folder: Folder) -> None:
    """Mark a folder as a store of this format.

    Called last, so that a marked folder always has everything else that a store needs.
    """
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
    """Read a store's marker: ``format_version``, usually with ``created_by`` and ``created``.

    Raises:
        StoreError: The folder is missing or not a store, or the marker is damaged or of a newer
            format.
    """
    with store_errors(folder, "the store was not opened"):
        if folder.is_local and folder.exists(MARKER) and folder.size(MARKER) > MAX_MARKER_BYTES:
            raise StoreError(
                f"{folder}/{MARKER} is damaged: it has more than {MAX_MARKER_BYTES:,} bytes"
            )
        content = _marker(folder)
    try:
        found = json.loads(content)
        number = found["format_version"]
        # JSON's true is an int in Python and would pass for version 1.
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
        f"there is no store at {folder}: create one with `ringlens capture … --store {folder}`"
    )


def _is_ours(name: str) -> bool:
    """Whether a name may belong to a store that another writer is creating right now."""
    known = ("staging", object_log.FOLDER, lease.FOLDER, *table_names())
    return name in known or name.startswith((MARKER, NAME))
