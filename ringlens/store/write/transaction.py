"""Transactions: how one writer and its peers make a commit, each wholly or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import Commit, Completion, File, Manifest, Start
from ringlens.store.storage import layout
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import Folder, Lock, folder_at
from ringlens.store.write.commit import CommitFiles, discard, publish, usual_workers
from ringlens.store.write.peers import Peers, agreed
from ringlens.store.write.supersede import PrimaryRows, end_run, replace_traces
from ringlens.store.write.sweep import delete_retired, sweep

T = TypeVar("T")
R = TypeVar("R")

Staged = tuple[list[File], PrimaryRows | None]
"""What a rank has staged for a commit, and what the primary adds about its traces."""


class Transactions:
    """A store opened for writing, and its commits; arguments are those of `StoreWriter`."""

    _manifest: Manifest  # on rank 0 alone
    _lock: Lock  # on rank 0 alone

    def __init__(self, path: str | Path, peers: Peers, workers: int | None) -> None:
        self.folder: Folder = folder_at(path)
        self.peers = peers
        self.workers = usual_workers() if workers is None else workers
        self.bytes_written = 0
        self._held = ExitStack()
        try:
            failed = "the store was not opened for writing"
            name = self._lead(failed, self._open)
            if peers.size > 1:
                self._agreed(failed, lambda: self._see(name), lambda _: None)
        except BaseException:
            self._held.close()
            raise

    @property
    def path(self) -> Path:
        """The store's folder on this machine."""
        return self.folder.path

    def close(self) -> None:
        """Let go of the store."""
        self._held.close()

    def _open(self) -> str:
        """Open the store on rank 0; return the name of its lock."""
        layout.prepare(self.folder)
        self._manifest = self.folder.make_manifest()
        self._held.callback(self._manifest.close)
        layout.mark(self.folder)
        self._lock = self.folder.lock()
        self._held.callback(self._lock.release)
        sweep(self.folder, self._manifest, self._lock.name)
        return self._lock.name

    def _see(self, name: str) -> None:
        """Make sure that this rank sees the folder that rank 0 opened."""
        if not self.folder.is_locked(name):
            raise StoreError(
                f"{self.folder} is not the folder that rank 0 writes to: give a path on a disk "
                f"that all ranks share"
            )

    def _agreed(self, failed: str, mine: Callable[[], T], then: Callable[[list[T]], R]) -> R:
        """`agreed`, where failures of the disk are sentences that end with ``failed``."""

        def my_part() -> T:
            with store_errors(self.folder, failed):
                return mine()

        def rank_0s_part(values: list[T]) -> R:
            with store_errors(self.folder, failed):
                return then(values)

        return agreed(self.peers, my_part, rank_0s_part)

    def _lead(self, failed: str, work: Callable[[], R]) -> R:
        """Work that rank 0 does for all."""
        return self._agreed(failed, lambda: None, lambda _: work())

    def _transact(
        self,
        check: Callable[[], T],
        reserve: Callable[[list[T]], Commit | None],
        stage: Callable[[CommitFiles], PrimaryRows | None],
        started: Start | None = None,
        finished: datetime | None = None,
    ) -> Commit | None:
        """One commit of all ranks: reserved, staged by each, completed by rank 0, or taken back.

        Args:
            check: What each rank looks at before anything is written.
            reserve: Rank 0's reservation, given the results of ``check``; None if there is
                nothing to commit.
            stage: What each rank stages.
            started: Facts of the run that the commit starts.
            finished: End of the run that the commit ends.

        Returns:
            The reservation.
        """
        commit: Commit | None = None

        def reserve_it(checked: list[T]) -> Commit | None:
            nonlocal commit
            commit = reserve(checked)
            return commit

        failed = "nothing of this commit was stored"
        try:
            commit = self._agreed(failed, check, reserve_it)
            if commit is None:
                return None
            files = CommitFiles(self.folder, commit, self.peers.rank, self.workers)

            def stage_it() -> Staged:
                primary = stage(files)
                return list(files.files.values()), primary

            complete = partial(self._complete, commit, started=started, finished=finished)
            self.bytes_written += self._agreed(failed, stage_it, complete)
        except BaseException:
            if commit is not None:
                with suppress(OSError, sqlite3.Error):  # else the next writer clears it away
                    self._take_back(commit)
            raise
        return commit

    def _complete(
        self,
        commit: Commit,
        ranks: list[Staged],
        started: Start | None,
        finished: datetime | None,
    ) -> int:
        """Publish and register what all ranks have staged; return its bytes. Rank 0 only."""
        staged = [file for own, _ in ranks for file in own]
        publish(self.folder, commit, staged)
        _, primary = ranks[self.peers.primary]
        while True:
            new = CommitFiles(self.folder, commit)
            retire: list[str] = []
            if primary is not None:
                retire = replace_traces(self._manifest, new, primary)
            if finished is not None:
                retire = end_run(self._manifest, new, finished)
            publish(self.folder, commit, new.files.values())
            all_files = [*staged, *new.files.values()]
            ended = finished.isoformat() if finished is not None else None
            outcome = self._manifest.complete(commit, all_files, retire, started, ended)
            if outcome is Completion.DONE:
                break
            if outcome is Completion.CLEARED:
                raise StoreError(f"commit {commit.commit_id} was cleared away by another writer")
            for path in new.files:  # another writer replaced the same files: look again
                self.folder.remove(path)
        with suppress(OSError, sqlite3.Error):  # else a later writer deletes them
            delete_retired(self.folder, self._manifest)
        return sum(file.bytes for file in all_files)

    def _take_back(self, commit: Commit) -> None:
        """Remove what a commit that failed has left: rank 0 everything, others what is theirs."""
        if self.peers.rank == 0:
            discard(self.folder, self._manifest, commit, commit.writer)
        else:
            CommitFiles(self.folder, commit, self.peers.rank).take_back()
