"""Committed files replaced by others that say the same, or say it better: the one door for that."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import Commit, Completion, Manifest, Start
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import Folder
from ringlens.store.write.commit import CommitFiles, discard, publish
from ringlens.store.write.sweep import delete_retired

Work = Callable[[CommitFiles], list[str]]
"""Stages files, and returns the paths of the committed files that they replace."""


@dataclass(frozen=True)
class Ends:
    """What a commit does to its run: starts it, ends it, drops it; nothing of these by default."""

    started: Start | None = None
    finished: str | None = None
    dropped: bool = False


KEEPS = Ends()


@dataclass(frozen=True)
class Rewriter:
    """Replaces files of a store, each time in one commit.

    Attributes:
        folder: Where the store's files live.
        manifest: Its manifest, open for writing.
        writer: Name of the lock that this process holds.
    """

    folder: Folder
    manifest: Manifest
    writer: str

    def replace(self, run_id: str, work: Work, ends: Ends = KEEPS, traces: int = 0) -> Commit:
        """One commit that replaces files of a run: all of them or none.

        Where another commit replaced one of the same files meanwhile, the work is done again on
        what there is then. Replaced files stay a while for queries that are running.

        Args:
            run_id: The run.
            work: What is staged, and what it replaces.
            ends: What becomes of the run itself.
            traces: Trace ids to reserve.

        Raises:
            StoreError: It could not be done; nothing has changed.
        """
        with store_errors(self.folder, "nothing was changed"):
            while True:
                commit = self.manifest.reserve(run_id, self.writer, traces)
                if self._attempt(commit, work, ends) is Completion.DONE:
                    break
            with suppress(OSError, sqlite3.Error):  # else a later writer deletes them
                delete_retired(self.folder, self.manifest)
            return commit

    def _attempt(self, commit: Commit, work: Work, ends: Ends) -> Completion:
        try:
            files = CommitFiles(self.folder, commit)
            retire = work(files)
            staged = list(files.files.values())
            publish(self.folder, commit, staged)
            outcome = self.manifest.complete(
                commit, staged, retire, ends.started, ends.finished, ends.dropped
            )
        except BaseException:
            with suppress(OSError, sqlite3.Error):  # else the next writer clears it away
                discard(self.folder, self.manifest, commit, self.writer)
            raise
        if outcome is Completion.CLEARED:
            raise StoreError(f"commit {commit.commit_id} was cleared away by another writer")
        if outcome is Completion.OUTDATED:
            discard(self.folder, self.manifest, commit, self.writer)
        return outcome
