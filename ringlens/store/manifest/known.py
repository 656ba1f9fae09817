"""Values of a manifest that may be anybody's: of the types that a writer notes, or refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ringlens.store.manifest.entries import Commit, File


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


def known_number(number: object) -> int:
    """A whole number of the manifest.

    Raises:
        sqlite3.DatabaseError: It is none.
    """
    if type(number) is not int:
        raise sqlite3.DatabaseError(f"malformed number in the manifest: {number!r:.80}")
    return number


def path_inside(path: object) -> bool:
    """Whether a path of the manifest stays in the store."""
    if not isinstance(path, str) or "\0" in path or path.startswith("/"):
        return False
    return bool(path) and not {"", ".", ".."} & set(path.split("/"))
