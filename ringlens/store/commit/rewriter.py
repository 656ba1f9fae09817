"""Rewrites committed files of a store; all upkeep and repair goes through `Rewriter`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ringlens.errors import StoreError
from ringlens.store.commit.files import CommitFiles, discard, publish
from ringlens.store.commit.sweep import delete_retired
from ringlens.store.manifest.manifest import Commit, Completion, Manifest, Start
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import Folder

Work = Callable[[CommitFiles], list[str]]
"""Stages files and returns the paths of the committed files that they replace."""


@dataclass(frozen=True)
class RunChange:
    """Change of a run that a commit makes: start, end or removal; none by default."""

    started: Start | None = None
    finished: str | None = None
    dropped: bool = False


NO_CHANGE = RunChange()


@dataclass(frozen=True)
class Rewriter:
    """Replaces files of a store, in one commit each time.

    Attributes:
        folder: The store's folder.
        manifest: The store's manifest, open for writing.
        writer: Name of the lock that this process holds.
    """

    folder: Folder
    manifest: Manifest
    writer: str

    def replace(
        self, run_id: str, work: Work, change: RunChange = NO_CHANGE, traces: int = 0
    ) -> Commit:
        """Replace files of a run in one commit, all of them or none.

        If another commit replaces one of the same files meanwhile, the work is done again with the
        new files. Replaced files stay on the disk for a while, for running queries.

        Args:
            run_id: The run.
            work: Stages the new files.
            change: Change of the run itself.
            traces: Number of trace ids to reserve.

        Raises:
            StoreError: The commit failed; nothing has changed.
        """
        with store_errors(self.folder, "nothing was changed"):
            while True:
                # Every attempt has its own number, so files of two attempts never share a path.
                commit = self.manifest.reserve(run_id, self.writer, traces)
                if self._attempt(commit, work, change) is Completion.DONE:
                    break
            with suppress(OSError, sqlite3.Error):  # a later writer deletes what stays behind
                delete_retired(self.folder, self.manifest)
            return commit

    def _attempt(self, commit: Commit, work: Work, change: RunChange) -> Completion:
        try:
            files = CommitFiles(self.folder, commit)
            retire = work(files)
            staged = list(files.files.values())
            publish(self.folder, commit, staged)
            outcome = self.manifest.complete(
                commit, staged, retire, change.started, change.finished, change.dropped
            )
        except BaseException:
            # Whether `complete` went through before an interrupt is settled inside `discard`.
            with suppress(OSError, sqlite3.Error):  # the next writer clears away what stays behind
                discard(self.folder, self.manifest, commit, self.writer)
            raise
        if outcome is Completion.CLEARED:
            raise StoreError(f"commit {commit.commit_id} was cleared away by another writer")
        if outcome is Completion.OUTDATED:
            discard(self.folder, self.manifest, commit, self.writer)
        return outcome
