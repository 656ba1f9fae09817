"""Repair: repairs what can be repaired without guessing.

Every step is one transaction or one rename. A repair that is killed leaves the store as it was
before or after a step, and can be started again.
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
from ringlens.store.check.files import ROLLUPS
from ringlens.store.check.finding import GONE, LOST, WRONG, Finding
from ringlens.store.check.rows import named
from ringlens.store.commit.files import CommitFiles
from ringlens.store.maintain import rollup
from ringlens.store.maintain.delete import delete_run
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.read.store import Store
from ringlens.store.read.tables import foreign
from ringlens.store.schema import captured
from ringlens.store.schema.promise import lost_rows
from ringlens.store.schema.table import Column, Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder
from ringlens.store.write.supersede import note_lost
from ringlens.store.write.writer import StoreWriter

ORPHANS = "orphans"
"""Folder to which files that no commit owns are moved."""

FLAGGED = {
    captured.TRUNCATED: captured.TRUNCATED,
    captured.NONFINITE: captured.NONFINITE,
    "logprob": captured.NONFINITE,
}
"""Flag that marks the traces of a finding, by kind of finding."""

Say = Callable[[str], None]
"""Called with a message about each step."""


def repair(
    path: str | Path, drop_damaged: bool, say: Say, on_progress: Progress = lambda *_: None
) -> Report:
    """Check a store and repair what can be repaired without guessing.

    Leftovers of dead writers are removed, files without a commit are moved to ``orphans/``, wrong
    entries of the manifest about intact files are corrected, and rollups are rebuilt. Traces with
    numbers that are not finite, or with only a part of their prompt, are flagged.

    Args:
        path: The store.
        drop_damaged: Remove traces with lost rows, with all their other rows.
        say: Called with a message about each step.
        on_progress: As for `check`.

    Returns:
        Report of a check after the repair.

    Raises:
        StoreError: The store cannot be written, or a run with lost rows is being written.
    """
    with Store(path) as store:
        found = check(store, on_progress)
    with StoreWriter(path) as writer:  # removes leftovers of dead writers when it opens the store
        steps = _RepairSteps(writer, say)
        # Entries first: later steps look up traces by them.
        steps.correct_entries(found)
        steps.clear(found.findings)
        if drop_damaged:
            steps.drop(found)
        else:
            steps.flag(found.findings)
        steps.note_lost(found.findings)
        # Rollups last, as the steps before change what they sum up.
        steps.recount([f.run_id for f in found.findings if _is_about(f, {*ROLLUPS, "steps"})])
    with Store(path) as store:
        return check(store, on_progress)


def _is_about(found: Finding, tables: set[str]) -> bool:
    return found.path.split("/")[0] in tables


class _RepairSteps:
    """The steps of a repair, all by one writer."""

    def __init__(self, writer: StoreWriter, say: Say) -> None:
        self._writer, self._rewriter = writer, writer.rewriter()
        self._folder, self._manifest = self._rewriter.folder, self._rewriter.manifest
        self._say = say

    def correct_entries(self, report: Report) -> None:
        """Correct the manifest's entries of intact files that are wrong or lack a checksum."""
        wrong = {found.path for found in report.findings if found.severity == WRONG}
        known = {file.path: file for file in self._manifest.snapshot()[2]}
        corrected = [
            noted
            for path, noted in report.noted.items()
            if (file := known.get(path)) and (file.checksum is None or path in wrong)
        ]
        if corrected:
            self._manifest.amend(corrected)
            self._say(
                f"corrected rows, size, traces and checksum of {len(corrected)} intact files in "
                f"the manifest"
            )

    def clear(self, findings: Iterable[Finding]) -> None:
        """Remove leftovers and move orphans away."""
        for found in findings:
            if found.kind == "reservation":
                # The writer removed it when it opened the store; only the message is left to give.
                self._say(f"forgot that {found.sentence.split(' by ')[0]}")
            elif found.kind == "leftover":
                self._folder.remove(found.path)
                self._say(f"removed {found.path}")
            elif found.kind == "orphan" and self._folder.exists(found.path):
                _set_aside(self._folder, found.path)
                self._say(f"moved {found.path} to {ORPHANS}/")

    def drop(self, report: Report) -> None:
        """Remove every trace with lost rows, and every run whose own rows are lost."""
        lost = [found for found in report.findings if found.severity == LOST and found.run_id]
        for run_id in sorted({found.run_id for found in lost}):
            self._make_sure_nobody_writes(run_id)
            here = [found for found in lost if found.run_id == run_id]
            if any(_is_about(found, {"runs", "experts"}) for found in here):
                self._drop_run(run_id)
            else:
                # A table that is gone as a whole concerns all traces. It is noted as lost instead,
                # or the whole run would go.
                gone = {f.path for f in here if f.kind == GONE and not f.traces}
                here = [f for f in here if f.kind != GONE and not _is_about(f, gone)]
                traces = {trace_id for found in here for trace_id in found.traces}
                self._drop_traces(run_id, traces, report.unreadable)

    def flag(self, findings: Iterable[Finding]) -> None:
        """Flag traces that stay in the store although something is wrong with them."""
        for found in findings:
            word = FLAGGED.get(found.kind)
            if word is None or found.run_id not in self._manifest.runs():
                continue
            self._make_sure_nobody_writes(found.run_id)
            work = partial(_with_flag, self._manifest, found, word)
            self._rewriter.replace(found.run_id, work)
            self._say(f"flagged {named(set(found.traces))} of run {found.run_id} {word}")

    def note_lost(self, findings: Sequence[Finding]) -> None:
        """Note rows that a run recorded, and of which nothing is left, as lost.

        Tables whose files the manifest still lists are left out, as a copy may be restored; `drop`
        removes such files from the manifest.
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

    def recount(self, runs: Iterable[str]) -> None:
        """Rebuild the rollups of runs."""
        for run_id in sorted(set(runs) & self._manifest.runs()):
            try:
                rollup.rebuild(self._rewriter, run_id, lambda *_: None)
            except StoreError as error:
                self._say(f"usage of run {run_id} cannot be counted: {error}")
            else:
                self._say(f"recounted usage of run {run_id}")

    def _make_sure_nobody_writes(self, run_id: str) -> None:
        if run_id in self._manifest.runs() and not self._manifest.is_finished(run_id):
            self._writer.resume(run_id)  # raises if another process is writing to it

    def _drop_run(self, run_id: str) -> None:
        if run_id in self._manifest.runs():
            delete_run(self._rewriter, run_id)
        else:  # only its files are left

            def work(_: CommitFiles) -> list[str]:
                return [f.path for f in self._manifest.snapshot()[2] if f.run_id == run_id]

            self._rewriter.replace(run_id, work)
        self._say(f"removed run {run_id} with all its traces")

    def _drop_traces(self, run_id: str, traces: set[int], unreadable: set[str]) -> None:
        unread: list[str] = []

        def work(files: CommitFiles) -> list[str]:
            own = [f for f in self._manifest.snapshot()[2] if f.run_id == run_id]
            unread[:] = [file.path for file in own if file.path in unreadable]
            return unread + _without([f for f in own if f.path not in unread], files, traces)

        self._rewriter.replace(run_id, work)
        if traces:
            self._say(f"removed {named(traces)} of run {run_id}")
        for path in unread:
            self._say(f"removed {path} from the manifest")


def _with_flag(manifest: Manifest, found: Finding, word: str, files: CommitFiles) -> list[str]:
    """Stage rows of ``traces`` with one more flag; return the paths that they replace."""
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
    """Move a file of a store to `ORPHANS`, from where it can be restored."""
    try:
        root = folder.path
    except StoreError:  # objects in a bucket cannot be renamed
        folder.write(f"{ORPHANS}/{path}", folder.read(path))
        folder.remove(path)
        return
    target = root / ORPHANS / path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(root / path, target)


def _without(own: Sequence[File], files: CommitFiles, traces: set[int]) -> list[str]:
    """Stage files of a run without some traces; return the paths that they replace."""
    unwanted = pa.array(sorted(traces), pa.int64())
    tables = {table.name: table for table in captured.tables()}
    retire = []
    for number, file in enumerate(own):
        table = tables.get(file.table) or foreign.as_stored(files.folder, file)
        if _stage_rest(files, file, table, unwanted, number):
            retire.append(file.path)
    return retire


def _stage_rest(
    files: CommitFiles, file: File, table: Table, unwanted: pa.Array, number: int
) -> bool:
    """Stage the rows of a file without some traces; False if it has none of these and can stay."""
    if "trace_id" not in table.arrow.names:
        return False
    ids = parquet.columns(files.folder, file.path, ["trace_id"])["trace_id"]
    stays = pc.invert(pc.is_in(ids, unwanted))
    if pc.all(stays).as_py():
        return False
    left = pc.fill_null(ids.filter(stays), 0)  # the manifest writes 0 for rows without a trace
    if len(left):
        span = list(pc.min_max(left).as_py().values())
        groups = _groups(files.folder, file.path, unwanted)
        files.stage(_as_stored(files.folder, file.path, table), groups, span, f"-left{number}")
    return True


def _as_stored(folder: Folder, path: str, table: Table) -> Table:
    """The table with a file's own columns, so that those of a later ringlens are kept."""
    found = pq.read_schema(folder.source(path))
    columns = tuple(Column(f.name, f.type, "", f.nullable) for f in found)
    return Table(table.name, table.meaning, table.key, columns)


def _groups(folder: Folder, path: str, unwanted: pa.Array) -> Iterator[pa.RecordBatch]:
    """Yield the row groups of a file without some traces."""
    with pq.ParquetFile(folder.source(path)) as opened:
        for group in range(opened.num_row_groups):
            rows = opened.read_row_group(group)
            rows = rows.filter(pc.invert(pc.is_in(rows["trace_id"], unwanted)))
            yield from rows.combine_chunks().to_batches()
