"""Deletes runs and traces from a store, with all their rows, in one commit per run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa

from ringlens.errors import NotInStoreError, StoreError
from ringlens.store.annotations.heirs import Inheritance, hand_over
from ringlens.store.commit.files import CommitFiles
from ringlens.store.commit.rewriter import Rewriter, RunChange
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.read.store import Store
from ringlens.store.read.tables import foreign
from ringlens.store.schema.annotation.table import ANNOTATIONS
from ringlens.store.schema.table import Table
from ringlens.store.write import stream
from ringlens.store.write.supersede import holds


def runs_of(store: Store, trace_ids: Iterable[int]) -> dict[str, list[int]]:
    """Group traces by run.

    Raises:
        NotInStoreError: A trace does not exist.
    """
    wanted = sorted(set(trace_ids))
    by_run: dict[str, list[int]] = {}
    for trace_id in wanted:
        by_run.setdefault(store.trace(trace_id).summary["run_id"], []).append(trace_id)
    return by_run


def delete_run(rewriter: Rewriter, run_id: str, doomed: Collection[str] = ()) -> Inheritance:
    """Delete a run and all its traces in one commit.

    What was said of its experts goes before to another run of its model, if there is one.

    Args:
        rewriter: Rewriter of the store.
        run_id: The run.
        doomed: Further runs that are to be deleted: none of them takes anything over.

    Returns:
        What was said of its experts, and the run that has it now.

    Raises:
        NotInStoreError: The run does not exist.
        StoreError: The run is being captured, or its annotations are damaged.
    """
    found: list[Inheritance] = []

    def work(_: CommitFiles) -> list[str]:
        _check(rewriter, run_id)
        mine = [file for file in rewriter.manifest.snapshot()[2] if file.run_id == run_id]
        if any(file.table == ANNOTATIONS.name for file in mine):
            with Store(rewriter.folder.address) as store:
                found[:] = [hand_over(store, run_id, doomed)]
        return [file.path for file in mine]

    rewriter.replace(run_id, work, RunChange(dropped=True))
    return found[0] if found else Inheritance(0, None)


def delete_traces(
    rewriter: Rewriter, run_id: str, trace_ids: Sequence[int], tables: Sequence[Table]
) -> None:
    """Delete traces of one run in one commit; the run stays.

    Files that also hold other traces are rewritten without these; the others are dropped.

    Args:
        rewriter: Rewriter of the store.
        run_id: The run.
        trace_ids: The traces.
        tables: All tables of the store.

    Raises:
        NotInStoreError: The run does not exist.
        StoreError: The run is being captured, or a file is damaged; nothing has changed.
    """
    gone = pa.array(sorted(trace_ids), pa.int64())
    by_name = {table.name: table for table in tables}

    def work(files: CommitFiles) -> list[str]:
        _check(rewriter, run_id)
        retire = []
        for number, file in enumerate(rewriter.manifest.snapshot()[2]):
            if file.run_id != run_id:
                continue
            table = by_name.get(file.table) or _as_stored(files, file)
            if table.has("trace_id") and _holds(files, file, gone):
                change = stream.only(gone, kept=False)
                kept = map(change, stream.row_groups(files.folder, file, table))
                stream.stage(files, table, kept, f"-{number:06d}")
                retire.append(file.path)
        return retire

    rewriter.replace(run_id, work)


def _check(rewriter: Rewriter, run_id: str) -> None:
    """Check that a run exists and has no living writer; from now on no other can write to it."""
    manifest = rewriter.manifest
    if manifest.run_shape(run_id) is None:
        raise NotInStoreError(f"there is no run {run_id} in {rewriter.folder}")
    if manifest.is_finished(run_id):
        return
    if not manifest.take(run_id, rewriter.writer, rewriter.folder.dead_writers):
        raise StoreError(f"run {run_id} is being captured: wait for it or stop it, then delete")


def _as_stored(files: CommitFiles, file: File) -> Table:
    """The table of a file, of one that is not known here: its rows of the traces go as well."""
    intact.require(files.folder, [file])
    return foreign.as_stored(files.folder, file)


def _holds(files: CommitFiles, file: File, gone: pa.Array) -> bool:
    """Whether a file has rows of any of some sorted traces."""
    # The manifest's spans rule out most files without opening them.
    if file.last_trace < gone[0].as_py() or file.first_trace > gone[-1].as_py():
        return False
    intact.require(files.folder, [file])
    return holds(files.folder, file, gone)
