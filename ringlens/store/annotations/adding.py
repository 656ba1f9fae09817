"""Adds annotations to a store: rows are only ever added, so writers never replace one another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ringlens.store.annotations.annotation import Annotation
from ringlens.store.commit.files import CommitFiles
from ringlens.store.commit.opening import opened
from ringlens.store.commit.rewriter import Rewriter
from ringlens.store.manifest.entries import File
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.schema.annotation.table import ANNOTATIONS
from ringlens.store.storage import parquet
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import Folder

MANY = 32
"""Files of a run above which the next commit gathers them in one; many slow down queries."""

FAILED = "the annotation was not stored"


def add(folder: Folder, annotations: Sequence[Annotation]) -> None:
    """Add annotations to a store, in one commit per run; once this returns they are on the disk.

    Raises:
        StoreError: The store cannot be written, or is read-only.
    """
    add_rows(folder, [each.row() for each in annotations])


def add_rows(folder: Folder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows of ``annotations``, as `Annotation.row` gives them or a store holds them.

    Raises:
        StoreError: The store cannot be written, or is read-only.
    """
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_run.setdefault(row["run_id"], []).append(row)
    with store_errors(folder, FAILED), opened(folder) as (manifest, lock):
        rewriter = Rewriter(folder, manifest, lock.name)
        for run_id, own in by_run.items():
            new = pa.Table.from_pylist(own, ANNOTATIONS.arrow)

            def work(files: CommitFiles, new: pa.Table = new) -> list[str]:
                return _stage(manifest, files, new)

            rewriter.replace(run_id, work)


def _stage(manifest: Manifest, files: CommitFiles, rows: pa.Table) -> list[str]:
    """Stage rows, and with them those of files that are too many; return the paths of these."""
    there = manifest.files(ANNOTATIONS.name, files.commit.run_id)
    retire = [each for each in there if _is_intact(files.folder, each)] if len(there) > MANY else []
    older = [parquet.read(files.folder, each.path, ANNOTATIONS) for each in retire]
    together = pa.concat_tables([rows, *older]).sort_by("annotation_id").combine_chunks()
    span = pc.min_max(pc.fill_null(together["trace_id"], 0)).as_py()
    files.stage(ANNOTATIONS, together.to_batches(), (span["min"], span["max"]))
    return [each.path for each in retire]


def _is_intact(folder: Folder, file: File) -> bool:
    """Whether a file is there and is what was committed; one that is not stays as it is."""
    try:
        return file.checksum == parquet.checksum(folder.source(file.path))
    except OSError:
        return False
