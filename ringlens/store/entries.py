"""Entries of the manifest: files, commits, and what becomes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


@dataclass(frozen=True)
class File:
    """One committed file.

    Attributes:
        path: Path in the store, with forward slashes.
        table: Table it belongs to.
        run_id: Run whose rows it holds.
        first_trace: Smallest trace id in it; 0 where the table has no traces.
        last_trace: Largest trace id in it.
        rows: Rows.
        bytes: Size.
        checksum: `parquet.checksum` of it; None if a ringlens of format 1 wrote it.
    """

    path: str
    table: str
    run_id: str
    first_trace: int
    last_trace: int
    rows: int
    bytes: int
    checksum: str | None = None


def file_of(row: Sequence[Any]) -> File:
    """The file that a row of the manifest notes.

    Raises:
        sqlite3.DatabaseError: A value is of another type, or the path leads out of the store.
    """
    path, table, run_id, *numbers, checksum = row
    texts = (path, table, run_id, checksum if checksum is not None else "")
    if not (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and path_inside(path)
    ):
        raise sqlite3.DatabaseError(f"malformed row of a file: {str(tuple(row))[:200]}")
    return File(*row)


def path_inside(path: object) -> bool:
    """Whether a path of the manifest stays in the store."""
    if not isinstance(path, str) or "\0" in path or path.startswith("/"):
        return False
    return bool(path) and not {"", ".", ".."} & set(path.split("/"))


@dataclass(frozen=True)
class Commit:
    """A reservation: its number and the trace ids ``first_trace … first_trace + traces - 1``."""

    commit_id: int
    run_id: str
    writer: str
    first_trace: int
    traces: int

    @property
    def last_trace(self) -> int:
        """The last reserved trace id."""
        return self.first_trace + self.traces - 1


def commit_of(row: Sequence[Any]) -> Commit:
    """The commit that a row of the manifest notes.

    Raises:
        sqlite3.DatabaseError: A value is of another type, or a name leads out of the store.
    """
    found = Commit(*row)
    numbers = (found.commit_id, found.first_trace, found.traces)
    names = (found.writer, found.run_id)
    if not (
        all(type(number) is int and number >= 0 for number in numbers)
        and all(path_inside(name) and "/" not in name for name in names)
    ):
        raise sqlite3.DatabaseError(f"malformed row of a commit: {found!s:.200}")
    return found


def known_path(path: object) -> str:
    """A path of the manifest.

    Raises:
        sqlite3.DatabaseError: It leads out of the store.
    """
    if not path_inside(path):
        raise sqlite3.DatabaseError(f"malformed path in the manifest: {path!r:.200}")
    return str(path)


@dataclass(frozen=True)
class Start:
    """What the manifest notes of a run that starts: its shape as JSON, and its fingerprint."""

    shape: str
    fingerprint: str


class Completion(Enum):
    """What became of the attempt to complete a commit."""

    DONE = auto()
    CLEARED = auto()
    """Another writer took this one for dead and cleared its reservation away."""
    OUTDATED = auto()
    """A file that the commit was to replace has just been replaced by another commit."""
