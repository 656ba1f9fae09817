"""Check: verifies that a store is intact and consistent.

It reads run by run and in batches of rows, so that memory does not grow with the store (except for
the ids of a run's traces). It writes nothing. Writers may continue meanwhile: a run is checked as
it was committed when its turn came.
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
"""Attempts to check a run whose files a writer keeps replacing."""

Progress = Callable[[str, int, int], None]
"""Called with the run, the bytes done and the bytes in total (each file is read twice)."""


@dataclass
class Report:
    """Result of a check.

    Attributes:
        findings: Everything that is wrong.
        noted: Readable files by path, as the manifest should describe them.
        unreadable: Paths of unreadable files.
        traces: Ids of the traces of each run, ascending.
        runs: Number of runs checked.
        files: Number of files checked.
        rows: Number of rows in them.
        bytes: Size of the files.
        choices: Number of choices recomputed from router logits.
        flagged: Number of traces with each flag of ``traces.flags``.
        unsummed: Number of files without a checksum (format 1), whose pages were all decoded.
        unknown: Number of files of tables that this ringlens does not know, of which only checksums
            and pages were checked; 0 for unknown words in ``runs.record``.
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
        on_progress: Called after each file.

    Raises:
        StoreError: The manifest or the folder cannot be read.
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
            _check_run(store, manifest, run_id, report, on_progress, total)
        report.findings += _across_runs(report)
        report.findings += check_folder(store.folder, manifest)
    return report


def _check_run(
    store: Store, manifest: Manifest, run_id: str, report: Report, show: Progress, total: int
) -> None:
    """Check one run; start over if a writer replaced its files meanwhile."""
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
    """Find trace ids that occur in more than one run."""
    runs = list(report.traces)
    ids = np.concatenate([report.traces[run_id] for run_id in runs]) if runs else np.zeros(0)
    known, counts = np.unique(ids, return_counts=True)
    for trace_id in known[counts > 1][:NAMED].tolist():
        owners = [run_id for run_id in runs if trace_id in report.traces[run_id]]
        sentence = f"trace {trace_id} belongs to the runs {' and '.join(owners)}"
        yield Finding(LOST, "twice", "traces", sentence, DROP, owners[-1], (trace_id,))
