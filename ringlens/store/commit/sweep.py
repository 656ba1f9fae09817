"""Removes leftovers of dead writers and old replaced files when a writer opens a store."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

from ringlens.store.commit.files import discard
from ringlens.store.manifest.clock import stamp
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.storage.folder import Folder

RETIRED_STAY = timedelta(minutes=10)
"""Time for which a replaced file stays on the disk, as running queries may still read it."""


def sweep(folder: Folder, manifest: Manifest, writer: str) -> None:
    """Remove leftovers of dead writers, and files that were replaced long enough ago.

    Args:
        folder: The store's folder.
        manifest: The store's manifest, open for writing.
        writer: Name of the writer that sweeps.
    """
    # Files first, locks second: a writer locks before it stages, so a file seen here whose writer
    # has no lock below belongs to a dead one. In the other order a new writer could come between.
    staged = {path: path.name.split("-")[0] for path in folder.staging.glob("*.part")}
    unfinished = manifest.reservations()
    dead = folder.dead_writers({commit.writer for commit in unfinished} | set(staged.values()))
    for commit in unfinished:
        if commit.writer in dead:
            discard(folder, manifest, commit, writer)
    for path, owner in staged.items():
        if owner in dead:  # staged by a rank that outlived its rank 0, without a reservation
            path.unlink(missing_ok=True)
    for path in folder.staging.glob("*.spill"):  # what DuckDB wrote while a compaction sorted
        if folder.dead_writers({path.name.split("-")[0]}):
            shutil.rmtree(path, ignore_errors=True)
    delete_retired(folder, manifest)


def delete_retired(folder: Folder, manifest: Manifest) -> None:
    """Delete files that were replaced long enough ago."""
    paths = manifest.retired(before=stamp(datetime.now(UTC) - RETIRED_STAY))
    for path in paths:
        folder.remove(path)
    # Entries last: if this process dies, the next sweep removes the files again, which is harmless.
    if paths:
        manifest.forget_retired(paths)
