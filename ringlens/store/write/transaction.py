"""Transactions: atomic commits of one writer and its peers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ringlens.errors import StoreError
from ringlens.store.commit.files import CommitFiles, discard, publish
from ringlens.store.commit.opening import opened
from ringlens.store.commit.sweep import delete_retired
from ringlens.store.manifest.manifest import Commit, Completion, File, Manifest, Start
from ringlens.store.parallel.encoding import Encoding, InThreads, default_threads
from ringlens.store.storage import layout
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import Folder, Lock, folder_at
from ringlens.store.write.peers import Peers, agreed
from ringlens.store.write.supersede import PrimaryRows, end_run, replace_traces

T = TypeVar("T")
R = TypeVar("R")

Staged = tuple[list[File], PrimaryRows | None]
"""Files that a rank has staged for a commit, and, from the primary, the rows of its traces."""


class Transactions:
    """Opens a store for writing and makes commits; `StoreWriter` describes the arguments."""

    _manifest: Manifest  # only on rank 0
    _lock: Lock  # only on rank 0

    def __init__(self, path: str | Path, peers: Peers, encoding: Encoding | None) -> None:
        self.folder: Folder = folder_at(path)
        self.peers = peers
        self.encoding = InThreads(default_threads()) if encoding is None else encoding
        self.bytes_written = 0
        self._held = ExitStack()
        try:
            failed = "the store was not opened for writing"
            name = self._on_rank_0(failed, self._open)
            if peers.size > 1:
                self._agreed(failed, lambda: self._check_folder(name), lambda _: None)
        except BaseException:
            self._held.close()
            raise

    @property
    def path(self) -> Path:
        """The store's folder on this machine."""
        return self.folder.path

    def close(self) -> None:
        """Close the manifest and release the lock."""
        self._held.close()

    def _open(self) -> str:
        """Open the store on rank 0; return the name of its lock."""
        layout.prepare(self.folder)
        self._manifest, self._lock = self._held.enter_context(opened(self.folder))
        return self._lock.name

    def _check_folder(self, name: str) -> None:
        """Check that this rank sees the folder that rank 0 has opened."""
        if not self.folder.is_locked(name):
            raise StoreError(
                f"{self.folder} is not the folder that rank 0 writes to: give a path on a disk "
                f"that all ranks share"
            )

    def _agreed(self, failed: str, mine: Callable[[], T], then: Callable[[list[T]], R]) -> R:
        """`agreed`, with failures of the disk as StoreError that end with ``failed``."""

        def on_every_rank() -> T:
            with store_errors(self.folder, failed):
                return mine()

        def on_rank_0(values: list[T]) -> R:
            with store_errors(self.folder, failed):
                return then(values)

        return agreed(self.peers, on_every_rank, on_rank_0)

    def _on_rank_0(self, failed: str, work: Callable[[], R]) -> R:
        """Run work on rank 0; every rank gets the result."""
        return self._agreed(failed, lambda: None, lambda _: work())

    def _transact(
        self,
        check: Callable[[], T],
        reserve: Callable[[list[T]], Commit | None],
        stage: Callable[[CommitFiles], PrimaryRows | None],
        started: Start | None = None,
        finished: datetime | None = None,
    ) -> Commit | None:
        """Make one commit of all ranks: rank 0 reserves, each rank stages, rank 0 completes.

        If any step fails on any rank, the commit is discarded.

        Args:
            check: Checks on each rank, before anything is written.
            reserve: Reserves the commit on rank 0, given the results of ``check``; returns None if
                there is nothing to commit.
            stage: Stages the files of each rank.
            started: Facts of the run, if the commit starts it.
            finished: Time of the end of the run, if the commit ends it.

        Returns:
            The reservation; None if there was nothing to commit.
        """
        commit: Commit | None = None

        def reserve_it(checked: list[T]) -> Commit | None:
            # Set here as well as below: an interrupt may come before `_agreed` returns.
            nonlocal commit
            commit = reserve(checked)
            return commit

        failed = "nothing of this commit was stored"
        try:
            commit = self._agreed(failed, check, reserve_it)
            if commit is None:
                return None
            files = CommitFiles(self.folder, commit, self.peers.rank, self.encoding)

            def stage_it() -> Staged:
                primary = stage(files)
                return list(files.files.values()), primary

            complete = partial(self._complete, commit, started=started, finished=finished)
            self.bytes_written += self._agreed(failed, stage_it, complete)
        except BaseException:
            if commit is not None:
                with suppress(OSError, sqlite3.Error):  # the next writer clears away the rest
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
        """Publish and register the files of all ranks; return their bytes. Rank 0 only."""
        staged = [file for own, _ in ranks for file in own]
        # Files are in place and flushed before the manifest names them: a registered file exists,
        # whatever happens after.
        publish(self.folder, commit, staged)
        _, primary = ranks[self.peers.primary]
        # Rewriting starts from committed files, which another writer may replace before this
        # commit completes. Then only the rewritten files are made again.
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
            for path in new.files:  # outdated
                self.folder.remove(path)
        with suppress(OSError, sqlite3.Error):  # a later writer deletes what stays behind
            delete_retired(self.folder, self._manifest)
        return sum(file.bytes for file in all_files)

    def _take_back(self, commit: Commit) -> None:
        """Remove the files of a failed commit: all files on rank 0, their own on other ranks."""
        if self.peers.rank == 0:
            discard(self.folder, self._manifest, commit, commit.writer)
        else:
            CommitFiles(self.folder, commit, self.peers.rank).take_back()
