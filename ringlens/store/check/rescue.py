"""Rescue: a manifest made anew from a store's files, where the old one is gone or unreadable.

What is known: each file's table, run and commit (its path says so), its rows and its traces. What
is not: whether the last commits were completed, and which files were replaced. Staged files tell of
commits that were not. A file of which a later commit holds rows was replaced, as every commit that
replaces rows carries the other rows of the file along.
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
"""Writer of commits whose writer is not known."""

ELSEWHERE = {ORPHANS, "staging"}
"""Folders that hold no table."""

SCOPES = {"probes": ("probe", "run_id", "trace_id"), "runs": ("run_id",), "experts": ("run_id",)}
"""Columns of which two commits share values only if one replaced the other; else ``trace_id``."""

Held = dict[tuple, tuple[int, int]]
"""What a file holds rows of: of each scope the first position and the one after the last."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """A file that can be read, and the commit that wrote it."""

    file: File
    commit_id: int


def rebuild_manifest(path: str | Path, say: Say) -> None:
    """Make the manifest anew from the files that there are; the old one moves to ``orphans/``.

    Files that cannot be read, that belong to a commit known as incomplete, or that were replaced,
    are not in it. They stay where they are, for `ringlens check --repair` to move away. Rollups
    are left out as well, to be counted anew.

    Args:
        path: The store.
        say: Told what is known and what is assumed, a sentence each.

    Raises:
        StoreError: The store is not on this machine's disk, a writer works on it, or there is
            nothing to make a manifest from.
    """
    folder = folder_at(path)
    if not isinstance(folder, LocalFolder):
        raise StoreError(f"{folder} has no {NAME}: its manifest is the log in manifest/")
    layout.read_marker(folder)
    if living := _living(folder):
        raise StoreError(f"{folder}: {len(living)} writers work on it: stop them first")
    unfinished = _staged(folder)
    readable = _readable(folder, say)
    whole = [found for found in readable if found.commit_id not in unfinished]
    for number in sorted(unfinished & {found.commit_id for found in readable}):
        say(f"commit {number} was not complete, as files of it are still staged: left out")
    kept = _newest(folder, [f for f in whole if f.file.table not in _summed()])
    runs = _runs(folder, kept)
    if not runs:
        raise StoreError(f"{folder} has no readable file of `runs`: no run can be told from them")
    kept = [found for found in kept if found.file.run_id in runs]
    _write(folder, kept, readable, unfinished, runs)
    _report(kept, whole, runs, say)
    with StoreWriter(path) as writer:
        for run_id in sorted({f.file.run_id for f in whole if f.file.table in _summed()} & {*runs}):
            rollup.rebuild(writer.rewriter(), run_id, lambda *_: None)
            say(f"counted usage of run {run_id} anew")


def _report(kept: Sequence[Found], whole: Sequence[Found], runs: dict[str, dict], say: Say) -> None:
    say(f"known: {len(runs)} runs, {len(kept)} files, all of which can be read")
    replaced = len([f for f in whole if f.file.table not in _summed()]) - len(kept)
    if replaced:
        say(f"known: {replaced} files were replaced by later commits, or are of no run: left out")
    numbers = sorted({found.commit_id for found in kept})
    say(f"assumed: commits {numbers[0]} to {numbers[-1]} that left files were all completed")
    say(
        "assumed: nothing was deleted since a writer last opened the store; what was is back "
        "where its files were still there"
    )
    open_runs = sum(run["finished"] is None for run in runs.values())
    if open_runs:
        say(f"lost: by what {open_runs} unfinished runs are found again, so they are not resumed")


def _summed() -> set[str]:
    return {table.name for table in usage_tables.TABLES}


def _living(folder: LocalFolder) -> set[str]:
    locked = {path.stem for path in folder.staging.glob("*.lock")}
    return locked - folder.dead_writers(locked)


def _staged(folder: LocalFolder) -> set[int]:
    """Numbers of commits of which files are still staged."""
    parts = [path.name.split("-") for path in folder.staging.glob("*.part")]
    return {int(words[1]) for words in parts if len(words) > 2 and words[1].isdigit()}


def _readable(folder: LocalFolder, say: Say) -> list[Found]:
    tables = [name for name in folder.names() if name not in ELSEWHERE]
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
    """The files of which no later commit of the same run holds a row anew."""
    kept = []
    tables = {(found.file.table, found.file.run_id) for found in readable}
    for key in sorted(tables):
        own = [f for f in readable if (f.file.table, f.file.run_id) == key]
        later: dict[tuple, list[tuple[int, int]]] = {}
        for number in sorted({found.commit_id for found in own}, reverse=True):
            here = [(f, _held(folder, f.file)) for f in own if f.commit_id == number]
            kept += [found for found, held in here if not _overlap(held, later)]
            for _, held in here:
                for scope, span in held.items():
                    later.setdefault(scope, []).append(span)
    return kept


def _overlap(held: Held, later: dict[tuple, list[tuple[int, int]]]) -> bool:
    return any(
        start < end and begin < stop
        for scope, (start, stop) in held.items()
        for begin, end in later.get(scope, ())
    )


def _held(folder: LocalFolder, file: File) -> Held:
    names = SCOPES.get(file.table, ("trace_id",))
    held: Held = {}
    with pq.ParquetFile(folder.source(file.path)) as opened:
        there = set(opened.schema_arrow.names)
        names = tuple(name for name in names if name in there)
        pos = ["pos"] if "pos" in there else []
        for batch in opened.iter_batches(BATCH, columns=[*names, *pos]):
            rows = pa.Table.from_batches([batch])
            ends = [("pos", "min"), ("pos", "max")] if pos else []
            for row in rows.group_by(list(names)).aggregate(ends).to_pylist():
                scope = tuple(row[name] for name in names)
                start, stop = row.get("pos_min", 0), row.get("pos_max", 0) + 1
                known = held.get(scope, (start, stop))
                held[scope] = min(start, known[0]), max(stop, known[1])
    return held


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
    """Make the new manifest beside the old one, then put it in its place."""
    for begun in folder.staging.glob("manifest-*"):  # by a rescue that was killed
        shutil.rmtree(begun)
    beside = folder.staging / f"manifest-{secrets.token_hex(4)}"
    beside.mkdir(parents=True)
    Manifest.create(beside).close()
    db = sqlite3.connect(beside / NAME)
    try:
        with db:
            for statement, rows in _entries(kept, readable, unfinished, runs):
                db.executemany(statement, rows)
        db.execute("pragma wal_checkpoint(truncate)")
    finally:
        db.close()
    (folder.path / ORPHANS).mkdir(exist_ok=True)
    mark = now().replace(":", "")
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
    """Statements and their rows. No number of a commit or trace is given out a second time."""
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
