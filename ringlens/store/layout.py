"""Where things lie in a store folder, and the file that says it is one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ringlens.errors import StoreError
from ringlens.store.manifest import NAME, now
from ringlens.store.schema import FORMAT_VERSION, tables

MARKER = "store.json"
STAGING = "staging"


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


def staged_path(path: str, writer: str) -> str:
    """Path in the store of the same file while it is written; never ends in .parquet."""
    table, *_, name = path.split("/")
    return f"{STAGING}/{writer}-{Path(name).stem.removeprefix('part-')}-{table}.part"


def part_of(rank: int) -> str:
    """What tells the files of a rank apart."""
    return f"-r{rank}" if rank else ""


def part_of_share(index: int) -> str:
    """What tells the files of one table apart that were encoded side by side."""
    return f"-s{index}" if index else ""


def left_behind(root: Path, run_id: str, writer: str, commit_id: int) -> Iterator[Path]:
    """All files that a commit can have left, of every rank."""
    yield from (root / STAGING).glob(f"{writer}-{commit_id:08d}-*.part")
    for table in table_names():
        yield from (root / table / f"run={run_id}").glob(f"part-{commit_id:08d}[.-]*")


def prepare(root: Path) -> None:
    """Make the folders that a writer needs.

    Raises:
        StoreError: The folder holds other things, or a store of a newer format.
    """
    root.mkdir(parents=True, exist_ok=True)
    if (root / MARKER).exists():
        check(root)
    elif strangers := [entry.name for entry in root.iterdir() if not _is_ours(entry.name)]:
        raise StoreError(
            f"{root} is not a store and holds other files (such as {strangers[0]}): give the path "
            f"of a new or empty folder"
        )
    (root / STAGING).mkdir(exist_ok=True)


def mark(root: Path) -> None:
    """Say that a folder is a store, once all else of it is there."""
    if (root / MARKER).exists():
        return
    marker = {
        "format_version": FORMAT_VERSION,
        "created_by": f"ringlens {version('ringlens')}",
        "created": now(),
    }
    temporary = root / f"{MARKER}.{secrets.token_hex(4)}"
    temporary.write_text(json.dumps(marker, indent=2) + "\n", "utf-8")
    os.replace(temporary, root / MARKER)


def check(root: Path) -> None:
    """Check that a folder is a store that this version reads.

    Raises:
        StoreError: It is missing, no store, damaged or of a newer format.
    """
    marker = root / MARKER
    if not root.exists():
        raise StoreError(
            f"there is no store at {root}: `ringlens capture … --store {root}` makes one"
        )
    if not marker.is_file():
        raise StoreError(
            f"{root} is not a store (it has no {MARKER}): give the folder that was passed to "
            f"`ringlens capture --store`"
        )
    try:
        found = json.loads(marker.read_text("utf-8"))["format_version"]
    except (ValueError, TypeError, KeyError):
        raise StoreError(
            f"{marker} is damaged: it should read "
            f'{{"format_version": {FORMAT_VERSION}}} or what a copy of the store holds'
        ) from None
    if not isinstance(found, int) or found > FORMAT_VERSION:
        raise StoreError(
            f"the store {root} has format version {found}, this ringlens reads up to "
            f"{FORMAT_VERSION}: upgrade with `pip install --upgrade ringlens`"
        )


def _is_ours(name: str) -> bool:
    """Whether a name can come from another writer that is making the store right now."""
    return name in (STAGING, *table_names()) or name.startswith((MARKER, NAME))
