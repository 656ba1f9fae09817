"""Merges stores: copies the runs of one into another, each once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ringlens.errors import StoreError
from ringlens.store.commit.rewriter import Rewriter
from ringlens.store.maintain import copying, twins
from ringlens.store.read.store import Store
from ringlens.store.schema.annotation.table import ANNOTATIONS


def merge(source: Store, target: Rewriter) -> list[str]:
    """Copy the runs of a store that another does not have yet, one commit per run.

    Traces get new ids, and ``source_trace_id`` follows them. A run keeps its id unless another run
    of the target has it. A merge that was stopped continues with the missing runs. Of a run that
    is there, what people said is added, each annotation once.

    Args:
        source: Store to copy from.
        target: Rewriter of the store to copy to.

    Returns:
        A message about each run of the source.

    Raises:
        StoreError: Both are the same store, or a run could not be copied; earlier runs were.
    """
    if source.folder.address == target.folder.address:
        raise StoreError(f"{source.folder} cannot be merged into itself: give another store")
    ids: dict[int, int] = {}
    messages = []
    with Store(target.folder.address) as there:
        known = {run["run_id"]: run for run in copying.run_rows(there)}
        for run in copying.run_rows(source):
            name, old = run["run_id"], copying.trace_ids_of(source, run["run_id"])
            twin = _twin(run, known)
            if twin is not None:
                own = twins.same_traces(source, name, there, twin)
                ids |= own
                said = twins.add_annotations(source, name, there, twin, own)
                messages.append(f"{name}: already there, skipped{said}")
            elif run["finished"] is None:
                messages.append(f"{name}: not finished, skipped: let its capture end, then merge")
            else:
                run_id = _free(name, known)
                tables = source.snapshot().keys() - {ANNOTATIONS.name}
                copy = copying.Copy(run, run_id, old, tables)
                new = copying.copy_run(source, target, copy, ids)
                # After the run: what was said of its experts may be there, at another run.
                said = twins.add_annotations(source, name, there, run_id, new)
                ids |= new
                known[run_id] = run
                renamed = f", as {run_id}" if run_id != name else ""
                messages.append(f"{name}: {len(old)} traces{renamed}{said}")
    return messages


def _twin(run: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Id of the same run in another store, where it may have been renamed."""

    # All columns but the id, among them the start in microseconds, are equal only for one run.
    def facts(row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name != "run_id"}

    for run_id, other in known.items():
        if facts(other) == facts(run):
            return run_id
    return None


def _free(run_id: str, known: Collection[str]) -> str:
    """The id itself, or with a number if another run has it."""
    number, free = 2, run_id
    while free in known:
        free, number = f"{run_id}-{number}", number + 1
    return free
