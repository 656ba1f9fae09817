"""Opens a store for writing: its manifest, and the lock that shows that the writer is alive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ringlens.store.commit.sweep import sweep
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.storage import layout
from ringlens.store.storage.folder import Folder, Lock


@contextmanager
def opened(folder: Folder) -> Iterator[tuple[Manifest, Lock]]:
    """Open the manifest of a store and take a lock; sweep away what dead writers left.

    Raises:
        OSError: The disk is full, read-only or broken.
        sqlite3.Error: The manifest cannot be written.
    """
    manifest = folder.make_manifest()
    try:
        layout.mark(folder)
        # The lock comes before the first reservation: a name without a lock counts as dead.
        lock = folder.lock()
        try:
            sweep(folder, manifest, lock.name)
            yield manifest, lock
        finally:
            lock.release()
    finally:
        manifest.close()
