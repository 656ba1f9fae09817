"""One commit's files on their way: staged, flushed, renamed into place, or taken back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from ringlens.store import layout, parquet
from ringlens.store.manifest import Commit, File, Manifest
from ringlens.store.schema import Table


class CommitFiles:
    """The files of one commit."""

    def __init__(self, root: Path, commit: Commit) -> None:
        self._root = root
        self._commit = commit
        self.files: list[File] = []

    def stage(
        self, table: Table, groups: Iterable[pa.RecordBatch], replaces: str | None = None
    ) -> None:
        """Write and flush one table's file in the staging folder.

        Args:
            table: The table.
            groups: Its row groups, in order.
            replaces: Path in the store of the committed file that this one takes the place of.
        """
        commit = self._commit
        staged = self._root / layout.staged_path(table.name, commit.writer, commit.commit_id)
        rows = parquet.write(staged, table, groups)
        path = replaces or layout.file_path(table.name, commit.run_id, commit.commit_id)
        traces = (commit.first_trace, commit.last_trace) if commit.traces else (0, 0)
        size = staged.stat().st_size
        self.files.append(File(path, table.name, commit.run_id, *traces, rows, size))

    def publish(self) -> None:
        """Rename all files to where they belong. They count only once the manifest has them."""
        folders = set()
        for file in self.files:
            final = self._root / file.path
            final.parent.mkdir(parents=True, exist_ok=True)
            commit = self._commit
            staged = layout.staged_path(file.table, commit.writer, commit.commit_id)
            os.replace(self._root / staged, final)
            folders |= {final.parent, final.parent.parent, self._root}
        for folder in folders:
            parquet.flush(folder)


def discard(root: Path, manifest: Manifest, commit: Commit) -> None:
    """Remove every file that an unfinished commit can have left, then its reservation."""
    if manifest.is_complete(commit):
        return  # interrupted after the commit point: the files belong to the store
    for table in layout.table_names():
        staged = layout.staged_path(table, commit.writer, commit.commit_id)
        for path in (staged, layout.file_path(table, commit.run_id, commit.commit_id)):
            (root / path).unlink(missing_ok=True)
    manifest.forget(commit)
