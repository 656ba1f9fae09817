"""Rescue: rebuilds a missing or unreadable manifest from a store's files.

Paths tell the table, run and commit of each file, and the files tell their rows and traces. What
has to be inferred is which commits were completed, and which files were replaced. A commit with
files that are still staged was not completed. A file was replaced if a later commit holds some of
its rows, because a commit that replaces rows also carries over the file's other rows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ringlens.errors import StoreError
from ringlens.store.check.files import BATCH, spanned
from ringlens.store.check.folder import commit_of, paths_in_tables
from ringlens.store.check.repair import ORPHANS
from ringlens.store.maintain import rollup
from ringlens.store.manifest.clock import now
from ringlens.store.manifest.manifest import NAME, File, Manifest
from ringlens.store.schema import usage_tables
from ringlens.store.schema.captured import RUNS
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.storage import layout, parquet
from ringlens.store.storage.folder import folder_at
from ringlens.store.storage.local import LocalFolder
from ringlens.store.write.writer import StoreWriter

REBUILT = "rebuilt"
"""Name of the writer that is given to commits whose writer is unknown."""

NOT_TABLES = {ORPHANS, "staging"}
"""Folders that do not hold a table."""

SCOPES = {
    "probes": ("probe", "run_id", "trace_id"),
    "annotations": ("annotation_id",),
    "runs": ("run_id",),
    "experts": ("run_id",),
}
"""Columns whose values two commits share only if one replaced the other; ``trace_id`` by default.
"""

Extents = dict[tuple, tuple[int, int]]
"""Positions that a file covers in each scope: the first, and the one after the last."""

Say = Callable[[str], None]
"""Called with a message about what is known or assumed."""


@dataclass(frozen=True)
class Found:
    """A readable file and the commit that wrote it."""

    file: File
    commit_id: int


def rebuild_manifest(path: str | Path, say: Say) -> None:
    """Rebuild the manifest from the files of a store; move the old one to ``orphans/``.

    Unreadable files, files of incomplete commits and replaced files are left out. They stay where
    they are until `ringlens check --repair` moves them away. Rollups are left out too and then
    recounted.

    Args:
        path: The store.
        say: Called with messages about what is known and what is assumed.

    Raises:
        StoreError: The store is not on this machine's disk, a writer is using it, or no run can
            be read.
    """
    folder = folder_at(path)
    if not isinstance(folder, LocalFolder):
        raise StoreError(f"{folder} has no {NAME}: its manifest is the log in manifest/")
    layout.read_marker(folder)
    if living := _living(folder):
        raise StoreError(f"{folder}: {len(living)} writers are using it: stop them first")
    unfinished = _staged(folder)
    readable = _readable(folder, say)
    whole = [found for found in readable if found.commit_id not in unfinished]
    for number in sorted(unfinished & {found.commit_id for found in readable}):
        say(f"commit {number} was not complete, as some of its files are still staged: left out")
    kept = _newest(folder, [f for f in whole if f.file.table not in _summed()])
    runs = _runs(folder, kept)
    if not runs:
        raise StoreError(f"{folder} has no readable file of `runs`, so no run can be rebuilt")
    kept = [found for found in kept if found.file.run_id in runs]
    _write(folder, kept, readable, unfinished, runs)
    _report(kept, whole, runs, say)
    with StoreWriter(path) as writer:
        for run_id in sorted({f.file.run_id for f in whole if f.file.table in _summed()} & {*runs}):
            rollup.rebuild(writer.rewriter(), run_id, lambda *_: None)
            say(f"recounted usage of run {run_id}")


def _report(kept: Sequence[Found], whole: Sequence[Found], runs: dict[str, dict], say: Say) -> None:
    say(f"known: {len(runs)} runs, {len(kept)} files, all of which can be read")
    replaced = len([f for f in whole if f.file.table not in _summed()]) - len(kept)
    if replaced:
        say(f"known: {replaced} files were replaced by later commits or have no run: left out")
    numbers = sorted({found.commit_id for found in kept})
    say(f"assumed: commits {numbers[0]} to {numbers[-1]} that left files were all completed")
    say(
        "assumed: nothing was deleted since a writer last opened the store; deleted rows are back "
        "if their files still existed"
    )
    open_runs = sum(run["finished"] is None for run in runs.values())
    if open_runs:
        say(f"lost: the fingerprints of {open_runs} unfinished runs, so they cannot be resumed")


def _summed() -> set[str]:
    return {table.name for table in usage_tables.ALL}


def _living(folder: LocalFolder) -> set[str]:
    locked = {path.stem for path in folder.staging.glob("*.lock")}
    return locked - folder.dead_writers(locked)


def _staged(folder: LocalFolder) -> set[int]:
    """Numbers of commits with files that are still staged."""
    parts = [path.name.split("-") for path in folder.staging.glob("*.part")]
    return {int(words[1]) for words in parts if len(words) > 2 and words[1].isdigit()}


def _readable(folder: LocalFolder, say: Say) -> list[Found]:
    tables = [name for name in folder.names() if name not in NOT_TABLES]
    found = []
    for path in paths_in_tables(folder, tables):
        table, run, _ = path.split("/")
        number = commit_of(path)
        if number is None or not run.startswith("run="):
            continue
        try:
            source = folder.source(path)
            size, checksum = folder.size(path), parquet.checksum(source)
            with pq.ParquetFile(source, page_checksum_verification=True) as opened:
                for _ in opened.iter_batches(BATCH):
                    pass
                rows = opened.metadata.num_rows
                file = File(path, table, run.removeprefix("run="), 0, 0, rows, size, checksum)
                found.append(Found(spanned(file, opened), number))
        except (OSError, pa.ArrowException) as error:
            say(f"{path} cannot be read ({str(error).splitlines()[0]}): left out")
    return found


def _newest(folder: LocalFolder, readable: Sequence[Found]) -> list[Found]:
    """Files whose rows no later commit of the same run holds again."""
    kept = []
    tables = {(found.file.table, found.file.run_id) for found in readable}
    for key in sorted(tables):
        own = [f for f in readable if (f.file.table, f.file.run_id) == key]
        later: dict[tuple, list[tuple[int, int]]] = {}
        # Newest commit first. Files of one commit never replace each other, so they are added to
        # the later ones only once all of them have been judged.
        for number in sorted({found.commit_id for found in own}, reverse=True):
            here = [(f, _extents(folder, f.file)) for f in own if f.commit_id == number]
            kept += [found for found, extents in here if not _overlap(extents, later)]
            for _, extents in here:
                for scope, span in extents.items():
                    later.setdefault(scope, []).append(span)
    return kept


def _overlap(extents: Extents, later: dict[tuple, list[tuple[int, int]]]) -> bool:
    return any(
        start < end and begin < stop
        for scope, (start, stop) in extents.items()
        for begin, end in later.get(scope, ())
    )


def _extents(folder: LocalFolder, file: File) -> Extents:
    names = SCOPES.get(file.table, ("trace_id",))
    extents: Extents = {}
    with pq.ParquetFile(folder.source(file.path)) as opened:
        there = set(opened.schema_arrow.names)
        names = tuple(name for name in names if name in there)
        # What analyses write is replaced as a whole, wherever in a trace its rows stand.
        pos = ["pos"] if "pos" in there and file.table not in SCOPES else []
        for batch in opened.iter_batches(BATCH, columns=[*names, *pos]):
            rows = pa.Table.from_batches([batch])
            ends = [("pos", "min"), ("pos", "max")] if pos else []
            for row in rows.group_by(list(names)).aggregate(ends).to_pylist():
                scope = tuple(row[name] for name in names)
                start, stop = row.get("pos_min", 0), row.get("pos_max", 0) + 1
                known = extents.get(scope, (start, stop))
                extents[scope] = min(start, known[0]), max(stop, known[1])
    return extents


def _runs(folder: LocalFolder, kept: Sequence[Found]) -> dict[str, dict]:
    rows = [
        row
        for found in kept
        if found.file.table == RUNS.name
        for row in parquet.read(folder, found.file.path, RUNS).to_pylist()
    ]
    return {row["run_id"]: row for row in rows}


def _write(
    folder: LocalFolder,
    kept: Sequence[Found],
    readable: Sequence[Found],
    unfinished: set[int],
    runs: dict[str, dict],
) -> None:
    """Write the new manifest beside the old one, then move it into place."""
    for unfinished_rescue in folder.staging.glob("manifest-*"):
        shutil.rmtree(unfinished_rescue)
    beside = folder.staging / f"manifest-{secrets.token_hex(4)}"
    beside.mkdir(parents=True)
    Manifest.create(beside).close()
    db = sqlite3.connect(beside / NAME)
    try:
        with db:
            for statement, rows in _entries(kept, readable, unfinished, runs):
                db.executemany(statement, rows)
        # Only the main file is moved, so everything has to be in it.
        db.execute("pragma wal_checkpoint(truncate)")
    finally:
        db.close()
    (folder.path / ORPHANS).mkdir(exist_ok=True)
    mark = now().replace(":", "")
    # The old log goes first: SQLite would replay it into the new file.
    for suffix in ("-wal", "-shm", ""):
        if (folder.path / f"{NAME}{suffix}").exists():
            os.replace(
                folder.path / f"{NAME}{suffix}", folder.path / ORPHANS / f"{mark}-{NAME}{suffix}"
            )
    os.replace(beside / NAME, folder.path / NAME)
    beside.rmdir()
    parquet.flush(folder.path)


def _entries(
    kept: Sequence[Found],
    readable: Sequence[Found],
    unfinished: set[int],
    runs: dict[str, dict],
) -> Iterator[tuple[str, list[tuple]]]:
    """Statements and their rows; they keep numbers of commits and traces from being reused."""
    of_commit = {found.commit_id: found.file.run_id for found in kept}
    next_trace = 1 + max((found.file.last_trace for found in readable), default=0)
    yield (
        "insert into runs (run_id, shape, started, finished) values (?, ?, ?, ?)",
        [
            (
                run_id,
                RunShape.of_row(row).to_json(),
                str(row["started"]),
                row["finished"] and str(row["finished"]),
            )
            for run_id, row in runs.items()
        ],
    )
    yield (
        "insert into owners (run_id, fingerprint, writer) values (?, '', ?)",
        [(run_id, REBUILT) for run_id in runs],
    )
    yield (
        "insert into commits (commit_id, run_id, writer, first_trace, traces, started, sequence)"
        " values (?, ?, ?, ?, 0, ?, ?)",
        [
            (number, run_id, REBUILT, next_trace, now(), place)
            for place, (number, run_id) in enumerate(sorted(of_commit.items()), 1)
        ],
    )
    last = max(unfinished | {found.commit_id for found in readable})
    yield "update sqlite_sequence set seq = ? where name = 'commits'", [(last,)]
    yield (
        "insert into files (path, table_name, run_id, first_trace, last_trace, rows, bytes,"
        " checksum, commit_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*_columns(found.file), found.commit_id) for found in kept],
    )


def _columns(file: File) -> tuple:
    span = (file.first_trace, file.last_trace)
    return file.path, file.table, file.run_id, *span, file.rows, file.bytes, file.checksum
