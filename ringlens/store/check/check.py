"""Check: does a store hold what it says that it holds?

Run by run, a batch of rows at a time, so memory does not grow with the store (but for the ids of
a run's traces). Nothing is written. Writers may go on meanwhile: what is checked of a run is what
was committed when its turn came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from ringlens.errors import StoreError
from ringlens.store.check.finding import DROP, LOST, Finding
from ringlens.store.check.folder import check_folder
from ringlens.store.check.rows import NAMED
from ringlens.store.check.run import RunCheck
from ringlens.store.check.tiling import Ints
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.read.store import Store
from ringlens.store.storage.failure import store_errors

ATTEMPTS = 3
"""How often a run is looked at again because a writer replaced its files meanwhile."""

Progress = Callable[[str, int, int], None]
"""Told what is checked, the bytes done, and the bytes to do (each file is gone through twice)."""


@dataclass
class Report:
    """What a check came to.

    Attributes:
        findings: What is wrong.
        noted: Files as the manifest should have them, of those that can be read, by path.
        unreadable: Paths of those that cannot be read.
        traces: Of each run the ids of its traces, ascending.
        runs: Runs that were checked.
        files: Files that were checked.
        rows: Rows in them.
        bytes: Their size.
        choices: Choices that were recomputed from router logits.
        flagged: How many traces have each of the flags of `schema.FLAGS`.
        unsummed: Files without a checksum, as format 1 wrote them; all their pages were decoded.
        unknown: Tables that this ringlens does not know, with their files, of which only checksums
            and pages were checked; and words in ``runs.record`` that it does not know, with 0.
    """

    findings: list[Finding] = field(default_factory=list)
    noted: dict[str, File] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    traces: dict[str, Ints] = field(default_factory=dict)
    runs: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    choices: int = 0
    flagged: Counter[str] = field(default_factory=Counter)
    unsummed: int = 0
    unknown: Counter[str] = field(default_factory=Counter)


def check(store: Store, on_progress: Progress = lambda *_: None) -> Report:
    """Check everything in a store.

    Args:
        store: The store.
        on_progress: Called as files are done.

    Raises:
        StoreError: The manifest, or the folder, cannot be read.
    """
    report = Report()
    with (
        store.unguarded(),
        store_errors(store.folder, "the check was not finished"),
        closing(store.folder.open_manifest()) as manifest,
    ):
        files = manifest.snapshot()[2]
        total = 2 * sum(file.bytes for file in files)
        for run_id in sorted(manifest.runs() | {file.run_id for file in files}):
            _check_in_peace(store, manifest, run_id, report, on_progress, total)
        report.findings += _across_runs(report)
        report.findings += check_folder(store.folder, manifest)
    return report


def _check_in_peace(
    store: Store, manifest: Manifest, run_id: str, report: Report, show: Progress, total: int
) -> None:
    """Check one run, again if writers replaced its files in the meantime."""
    done = 2 * report.bytes
    for attempt in range(ATTEMPTS):
        one = RunCheck(store, manifest, run_id, lambda n: show(run_id, done + n, total))
        try:
            one.check()
            break
        except (FileNotFoundError, StoreError):
            if attempt + 1 == ATTEMPTS or not one.is_outdated():
                raise
    report.findings += one.findings
    report.noted |= {file.path: file for file in one.noted}
    report.unreadable |= {file.path for file in one.files} - report.noted.keys()
    report.traces[run_id] = one.traces
    report.runs += 1
    report.files += len(one.files)
    report.rows += sum(file.rows for file in one.noted)
    report.bytes += sum(file.bytes for file in one.files)
    report.choices += one.choices
    report.flagged.update(flag for flags in one.flagged.values() for flag in flags)
    report.unsummed += sum(file.checksum is None for file in one.files)
    report.unknown.update(one.unknown)


def _across_runs(report: Report) -> Iterator[Finding]:
    """A trace id is unique in the store."""
    runs = list(report.traces)
    ids = np.concatenate([report.traces[run_id] for run_id in runs]) if runs else np.zeros(0)
    known, counts = np.unique(ids, return_counts=True)
    for trace_id in known[counts > 1][:NAMED].tolist():
        owners = [run_id for run_id in runs if trace_id in report.traces[run_id]]
        sentence = f"trace {trace_id} belongs to the runs {' and '.join(owners)}"
        yield Finding(LOST, "twice", "traces", sentence, DROP, owners[-1], (trace_id,))
