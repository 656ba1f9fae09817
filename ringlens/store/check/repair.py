"""Repair: what a check found, put right as far as that needs no invention.

Every step is one transaction or one rename, so a repair that is killed leaves the store as it was
before or after that step, and can be started again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ringlens.errors import StoreError
from ringlens.store.check.check import Progress, Report, check
from ringlens.store.check.files import SUMMED
from ringlens.store.check.finding import GONE, LOST, WRONG, Finding
from ringlens.store.check.rows import named
from ringlens.store.maintain import rollup
from ringlens.store.maintain.delete import delete_run
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.read import foreign
from ringlens.store.read.store import Store
from ringlens.store.schema import captured
from ringlens.store.schema.promise import lost_rows
from ringlens.store.schema.table import Column, Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder
from ringlens.store.write.commit import CommitFiles
from ringlens.store.write.supersede import note_lost
from ringlens.store.write.writer import StoreWriter

ORPHANS = "orphans"
"""Folder for files that no commit owns."""

FLAGGED = {
    captured.TRUNCATED: captured.TRUNCATED,
    captured.NONFINITE: captured.NONFINITE,
    "logprob": captured.NONFINITE,
}
"""Of a kind of finding the flag that tells of it."""

Say = Callable[[str], None]


def repair(
    path: str | Path, drop_damaged: bool, say: Say, on_progress: Progress = lambda *_: None
) -> Report:
    """Check a store, and put right what can be.

    Leftovers of dead writers are removed, files without a commit are moved to ``orphans/``, the
    manifest's notes about intact files are made anew, and so are rollups. Traces whose numbers are
    none, or whose prompt is a part of one, are flagged.

    Args:
        path: The store.
        drop_damaged: Whether traces of which rows are lost are taken out, with all their rows.
        say: Told what was done, a sentence each.
        on_progress: As for `check`.

    Returns:
        What a check says afterwards.

    Raises:
        StoreError: The store cannot be written, or a writer works on a run with lost rows.
    """
    with Store(path) as store:
        found = check(store, on_progress)
    with StoreWriter(path) as writer:  # removes what writers that are gone have left
        mender = _Mender(writer, say)
        mender.note(found)
        mender.clear(found.findings)
        if drop_damaged:
            mender.drop(found)
        else:
            mender.flag(found.findings)
        mender.forget(found.findings)
        mender.count([f.run_id for f in found.findings if _is_about(f, SUMMED)])
    with Store(path) as store:
        return check(store, on_progress)


def _is_about(found: Finding, tables: set[str]) -> bool:
    return found.path.split("/")[0] in tables


class _Mender:
    """The steps of a repair, in the name of one writer."""

    def __init__(self, writer: StoreWriter, say: Say) -> None:
        self._writer, self._rewriter = writer, writer.rewriter()
        self._folder, self._manifest = self._rewriter.folder, self._rewriter.manifest
        self._say = say

    def note(self, report: Report) -> None:
        """Note facts of intact files anew where the manifest has others, or no checksum."""
        wrong = {found.path for found in report.findings if found.severity == WRONG}
        known = {file.path: file for file in self._manifest.snapshot()[2]}
        anew = [
            noted
            for path, noted in report.noted.items()
            if (file := known.get(path)) and (file.checksum is None or path in wrong)
        ]
        if anew:
            self._manifest.amend(anew)
            self._say(f"noted rows, size, traces and checksum of {len(anew)} intact files anew")

    def clear(self, findings: Iterable[Finding]) -> None:
        """Remove leftovers, move orphans away."""
        for found in findings:
            if found.kind == "reservation":
                self._say(f"forgot that {found.sentence.split(' by ')[0]}")
            elif found.kind == "leftover":
                self._folder.remove(found.path)
                self._say(f"removed {found.path}")
            elif found.kind == "orphan" and self._folder.exists(found.path):
                _set_aside(self._folder, found.path)
                self._say(f"moved {found.path} to {ORPHANS}/")

    def drop(self, report: Report) -> None:
        """Take out every trace of which rows are lost, and every run whose own facts are."""
        lost = [found for found in report.findings if found.severity == LOST and found.run_id]
        for run_id in sorted({found.run_id for found in lost}):
            self._make_sure_nobody_writes(run_id)
            here = [found for found in lost if found.run_id == run_id]
            if any(_is_about(found, {"runs", "experts"}) for found in here):
                self._drop_run(run_id)
            else:
                gone = {f.path for f in here if f.kind == GONE and not f.traces}
                here = [f for f in here if f.kind != GONE and not _is_about(f, gone)]
                traces = {trace_id for found in here for trace_id in found.traces}
                self._drop_traces(run_id, traces, report.unreadable)

    def flag(self, findings: Iterable[Finding]) -> None:
        """Note in ``traces`` what is known to be wrong with traces that stay."""
        for found in findings:
            word = FLAGGED.get(found.kind)
            if word is None or found.run_id not in self._manifest.runs():
                continue
            self._make_sure_nobody_writes(found.run_id)
            work = partial(_with_flag, self._manifest, found, word)
            self._rewriter.replace(found.run_id, work)
            self._say(f"flagged {named(set(found.traces))} of run {found.run_id} {word}")

    def forget(self, findings: Sequence[Finding]) -> None:
        """Note rows that a run says it recorded, and of which nothing is left, as lost.

        Where files of a table are listed, a copy may come back; ``drop`` takes them out of the
        list.
        """
        gone = [found for found in findings if found.kind == GONE and found.severity == LOST]
        for run_id in sorted({found.run_id for found in gone}):
            own = {f.table for f in self._manifest.snapshot()[2] if f.run_id == run_id}
            here = [f for f in gone if f.run_id == run_id and (f.traces or f.path not in own)]
            if here and "runs" in own:
                self._make_sure_nobody_writes(run_id)
                notes = [lost_rows(f.path, i) for f in here for i in f.traces]
                notes += [found.path for found in here if not found.traces]
                note_lost(self._rewriter, run_id, notes)
                for found in here:
                    of = f", of {named(set(found.traces))}," if found.traces else ""
                    self._say(f"noted that {found.path} of run {run_id}{of} is lost")

    def count(self, runs: Iterable[str]) -> None:
        """Make rollups anew."""
        for run_id in sorted(set(runs) & self._manifest.runs()):
            try:
                rollup.rebuild(self._rewriter, run_id, lambda *_: None)
            except StoreError as error:
                self._say(f"usage of run {run_id} cannot be counted: {error}")
            else:
                self._say(f"counted usage of run {run_id} anew")

    def _make_sure_nobody_writes(self, run_id: str) -> None:
        if run_id in self._manifest.runs() and not self._manifest.is_finished(run_id):
            self._writer.resume(run_id)  # raises where another process works on it

    def _drop_run(self, run_id: str) -> None:
        if run_id in self._manifest.runs():
            delete_run(self._rewriter, run_id)
        else:  # its files alone are there

            def work(_: CommitFiles) -> list[str]:
                return [f.path for f in self._manifest.snapshot()[2] if f.run_id == run_id]

            self._rewriter.replace(run_id, work)
        self._say(f"took run {run_id} out, with all its traces")

    def _drop_traces(self, run_id: str, traces: set[int], unreadable: set[str]) -> None:
        unread: list[str] = []

        def work(files: CommitFiles) -> list[str]:
            own = [f for f in self._manifest.snapshot()[2] if f.run_id == run_id]
            unread[:] = [file.path for file in own if file.path in unreadable]
            return unread + _without([f for f in own if f.path not in unread], files, traces)

        self._rewriter.replace(run_id, work)
        if traces:
            self._say(f"took {named(traces)} of run {run_id} out")
        for path in unread:
            self._say(f"took {path} out")


def _with_flag(manifest: Manifest, found: Finding, word: str, files: CommitFiles) -> list[str]:
    """Stage the rows of ``traces`` with one more flag; return the files that they replace."""
    wanted, retire = set(found.traces), []
    for number, file in enumerate(manifest.files("traces", found.run_id)):
        rows = parquet.read(files.folder, file.path, captured.TRACES).to_pylist()
        if not wanted & {row["trace_id"] for row in rows}:
            continue
        for row in rows:
            if row["trace_id"] in wanted:
                row["flags"] = sorted({word, *(row["flags"] or ())})
        batch = pa.RecordBatch.from_pylist(rows, captured.TRACES.arrow)
        files.stage(captured.TRACES, [batch], batch["trace_id"].to_pylist(), f"-flagged{number}")
        retire.append(file.path)
    return retire


def _set_aside(folder: Folder, path: str) -> None:
    """Move a file of a store to `ORPHANS`, from where it can be taken back."""
    try:
        root = folder.path
    except StoreError:  # at an address nothing can be renamed
        folder.write(f"{ORPHANS}/{path}", folder.read(path))
        folder.remove(path)
        return
    target = root / ORPHANS / path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(root / path, target)


def _without(own: Sequence[File], files: CommitFiles, traces: set[int]) -> list[str]:
    """Stage files of a run without some traces; return the paths of those that have them."""
    unwanted = pa.array(sorted(traces), pa.int64())
    tables = {table.name: table for table in captured.tables()}
    retire = []
    for number, file in enumerate(own):
        table = tables.get(file.table) or foreign.as_stored(files.folder, file)
        if _kept(files, file, table, unwanted, number):
            retire.append(file.path)
    return retire


def _kept(files: CommitFiles, file: File, table: Table, unwanted: pa.Array, number: int) -> bool:
    """Stage what is left of a file; False if it has none of the traces and can stay."""
    if "trace_id" not in table.arrow.names:
        return False
    ids = parquet.columns(files.folder, file.path, ["trace_id"])["trace_id"]
    stays = pc.invert(pc.is_in(ids, unwanted))
    if pc.all(stays).as_py():
        return False
    left = pc.fill_null(ids.filter(stays), 0)
    if len(left):
        span = list(pc.min_max(left).as_py().values())
        groups = _groups(files.folder, file.path, unwanted)
        files.stage(_as_stored(files.folder, file.path, table), groups, span, f"-left{number}")
    return True


def _as_stored(folder: Folder, path: str, table: Table) -> Table:
    """The table with the columns that a file has, those of a later ringlens among them."""
    found = pq.read_schema(folder.source(path))
    columns = tuple(Column(f.name, f.type, "", f.nullable) for f in found)
    return Table(table.name, table.meaning, table.key, columns)


def _groups(folder: Folder, path: str, unwanted: pa.Array) -> Iterator[pa.RecordBatch]:
    """The row groups of a file without some traces."""
    with pq.ParquetFile(folder.source(path)) as opened:
        for group in range(opened.num_row_groups):
            rows = opened.read_row_group(group)
            rows = rows.filter(pc.invert(pc.is_in(rows["trace_id"], unwanted)))
            yield from rows.combine_chunks().to_batches()
