"""What is removed when a writer opens the store: leftovers of dead writers, replaced files."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

from ringlens.store.manifest.clock import stamp
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.storage.folder import Folder
from ringlens.store.write.commit import discard

RETIRED_STAY = timedelta(minutes=10)
"""How long a replaced file stays on the disk: a query that is running may still read it."""


def sweep(folder: Folder, manifest: Manifest, writer: str) -> None:
    """Remove what dead writers left, and files that were replaced long enough ago.

    Args:
        folder: Where the store's files live.
        manifest: Its manifest, open for writing.
        writer: Name of the writer that does it.
    """
    # Looked at before the locks: a writer has its lock before it stages anything.
    staged = {path: path.name.split("-")[0] for path in folder.staging.glob("*.part")}
    left = manifest.reservations()
    dead = folder.dead_writers({commit.writer for commit in left} | set(staged.values()))
    for commit in left:
        if commit.writer in dead:
            discard(folder, manifest, commit, writer)
    for path, owner in staged.items():
        if owner in dead:  # a rank that outlived its rank 0 staged it
            path.unlink(missing_ok=True)
    for path in folder.staging.glob("*.spill"):
        if folder.dead_writers({path.name.split("-")[0]}):
            shutil.rmtree(path, ignore_errors=True)
    delete_retired(folder, manifest)


def delete_retired(folder: Folder, manifest: Manifest) -> None:
    """Delete files that were replaced long enough ago."""
    paths = manifest.retired(before=stamp(datetime.now(UTC) - RETIRED_STAY))
    for path in paths:
        folder.remove(path)
    if paths:
        manifest.forget_retired(paths)
