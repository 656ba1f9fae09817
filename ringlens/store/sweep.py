"""What is removed when a writer opens the store: leftovers of dead writers, replaced files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ringlens.store import layout
from ringlens.store.commit import discard
from ringlens.store.lock import dead_writers
from ringlens.store.manifest import Manifest, stamp

RETIRED_STAY = timedelta(minutes=10)
"""How long a replaced file stays on the disk: a query that is running may still read it."""


def sweep(root: Path, manifest: Manifest) -> None:
    """Remove what dead writers left, and files that were replaced long enough ago."""
    staging = root / layout.STAGING
    # Looked at before the locks: a writer has its lock before it stages anything.
    staged = {path: path.name.split("-")[0] for path in staging.glob("*.part")}
    left = manifest.reservations()
    dead = dead_writers(staging, {commit.writer for commit in left} | set(staged.values()))
    for commit in left:
        if commit.writer in dead:
            discard(root, manifest, commit)
    for path, writer in staged.items():
        if writer in dead:  # a rank that outlived its rank 0 staged it
            path.unlink(missing_ok=True)
    delete_retired(root, manifest)


def delete_retired(root: Path, manifest: Manifest) -> None:
    """Delete files that were replaced long enough ago."""
    paths = manifest.retired(before=stamp(datetime.now(UTC) - RETIRED_STAY))
    for path in paths:
        (root / path).unlink(missing_ok=True)
    if paths:
        manifest.forget_retired(paths)
