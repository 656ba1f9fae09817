"""Turns low-level failures into messages that say what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from ringlens.errors import StoreError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space or give a store on another disk",
    errno.EDQUOT: "the disk quota is used up: free some space or give a store on another disk",
    errno.EFBIG: "a file would grow past the size limit (`ulimit -f`): raise the limit",
    errno.EROFS: "the disk is read-only: give a store on a disk that can be written",
    errno.EACCES: "permission denied: give a folder that you may write, or change its permissions",
    errno.EPERM: "permission denied: give a folder that you may write, or change its permissions",
    errno.ENOTDIR: "a part of the path is a file: give the path of a folder",
    errno.EEXIST: "the path is a file: give the path of a folder",
}


class DamageError(StoreError):
    """A committed file is missing or differs from what was committed."""


@contextmanager
def store_errors(store: object, outcome: str) -> Iterator[None]:
    """Turn failures of the disk, the manifest and the encoding into StoreError.

    Args:
        store: What messages call the store.
        outcome: What the failure means, for example "nothing of this commit was stored".

    Raises:
        StoreError: In place of OSError, sqlite3.Error, pyarrow.ArrowException and DamageError.
            Other exceptions pass through.
    """
    try:
        yield
    except DamageError as error:
        raise StoreError(f"{error}; {outcome}") from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, f"{error}")
        raise StoreError(f"{store}: {advice}; {outcome}") from error
    except pa.ArrowException as error:
        raise StoreError(
            f"{store}: a record does not fit its table ({error}); {outcome}"
        ) from error
    except sqlite3.Error as error:
        raise StoreError(f"{store}: {_manifest_advice(error)}; {outcome}") from error


def _manifest_advice(error: sqlite3.Error) -> str:
    text = str(error)  # our own "malformed …" errors carry no SQLite error code to compare
    if "full" in text:
        return _ADVICE[errno.ENOSPC]
    if "readonly" in text:
        return _ADVICE[errno.EROFS]
    if "locked" in text:
        return "other writers held the manifest for a minute: try again, or stop them"
    if "unable to open" in text:
        return (
            "manifest.sqlite cannot be opened: restore a copy of it, or rebuild it with "
            "`ringlens check --repair --rebuild-manifest`, or, if a writer was killed and the "
            "disk is now read-only, copy the store to a disk that can be written"
        )
    if "malformed" in text or "not a database" in text or "no such table" in text:
        return (
            f"manifest.sqlite is damaged ({text}): restore a copy of it and of its -wal file, or "
            f"rebuild it with `ringlens check --repair --rebuild-manifest`"
        )
    return f"manifest.sqlite failed ({text})"
