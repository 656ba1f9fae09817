"""Checks values of a manifest that may be untrusted: refuses those that no writer would note."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ringlens.store.manifest.entries import Commit, File


def file_of(row: Sequence[Any]) -> File:
    """Parse a row of the manifest's ``files`` table.

    Raises:
        sqlite3.DatabaseError: A value has the wrong type, or the path leaves the store.
    """
    path, table, run_id, *numbers, checksum = row
    texts = (path, table, run_id, checksum if checksum is not None else "")
    if not (
        all(isinstance(text, str) for text in texts)
        # SQLite columns are not typed, and a bool must not pass for a number either.
        and all(type(number) is int and number >= 0 for number in numbers)
        and path_inside(path)
    ):
        raise sqlite3.DatabaseError(f"malformed row of a file: {str(tuple(row))[:200]}")
    return File(*row)


def commit_of(row: Sequence[Any]) -> Commit:
    """Parse a row of the manifest's ``commits`` table.

    Raises:
        sqlite3.DatabaseError: A value has the wrong type, or a name leaves the store.
    """
    found = Commit(*row)
    numbers = (found.commit_id, found.first_trace, found.traces)
    names = (found.writer, found.run_id)
    if not (
        all(type(number) is int and number >= 0 for number in numbers)
        # Names become parts of paths that are deleted when the commit is cleared away.
        and all(path_inside(name) and "/" not in name for name in names)
    ):
        raise sqlite3.DatabaseError(f"malformed row of a commit: {found!s:.200}")
    return found


def checked_path(path: object) -> str:
    """Check a path of the manifest.

    Raises:
        sqlite3.DatabaseError: The path leaves the store.
    """
    if not path_inside(path):
        raise sqlite3.DatabaseError(f"malformed path in the manifest: {path!r:.200}")
    return str(path)


def checked_number(number: object) -> int:
    """Check an integer of the manifest.

    Raises:
        sqlite3.DatabaseError: The value is not an integer.
    """
    if type(number) is not int:
        raise sqlite3.DatabaseError(f"malformed number in the manifest: {number!r:.80}")
    return number


def path_inside(path: object) -> bool:
    """Whether a path of the manifest stays in the store."""
    if not isinstance(path, str) or "\0" in path or path.startswith("/"):
        return False
    return bool(path) and not {"", ".", ".."} & set(path.split("/"))
