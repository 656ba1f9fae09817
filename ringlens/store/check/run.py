"""Checks one run: its files, its own row, its traces, and their rows in all tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ringlens.errors import StoreError
from ringlens.store.check.files import BESIDE, check_file
from ringlens.store.check.finding import DROP, LOST, RUN_COPY, WRONG, Finding
from ringlens.store.check.numbers import NumberFaults, check_phases
from ringlens.store.check.promise import check_chosen, check_rollups, gone
from ringlens.store.check.rows import RunTraces, check_table, named
from ringlens.store.check.tiling import Ints
from ringlens.store.check.usage import check_usage
from ringlens.store.check.verify import verify_choices
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.read.store import Store
from ringlens.store.schema import captured, instruments
from ringlens.store.schema.promise import Promise
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet


class RunCheck:
    """Checks one run as it was when this object was created.

    Attributes:
        files: Files of the run, as the manifest describes them.
        noted: Readable files, as the manifest should describe them.
        findings: Everything that is wrong.
        traces: Ids of the run's traces, ascending.
        choices: Number of choices recomputed from router logits.
        flagged: Flags of the traces that have any.
        unknown: Number of files of tables that this ringlens does not know; 0 for unknown words in
            ``runs.record``.
    """

    def __init__(
        self, store: Store, manifest: Manifest, run_id: str, on_bytes: Callable[[int], None]
    ) -> None:
        self.files = [file for file in manifest.snapshot()[2] if file.run_id == run_id]
        self.noted: list[File] = []
        self.findings: list[Finding] = []
        self.traces: Ints = np.zeros(0, np.int64)
        self.choices = 0
        self.flagged: dict[int, list[str]] = {}
        self.unknown: Counter[str] = Counter()
        self._modern = True  # format 1 had no rollups
        self._store, self._folder, self._manifest = store, store.folder, manifest
        self._run_id = run_id
        self._on_bytes, self._done = on_bytes, 0
        shape = manifest.run_shape(run_id)
        self._shape = None if shape is None else RunShape.from_json(shape)
        experts = 2**16 if self._shape is None else self._shape.experts
        self._tables = {table.name: table for table in captured.tables(experts)}
        self._recorded = {table.name for table in instruments.tables()}

    def check(self) -> None:
        """Check everything: all files first, then the rows of the readable ones.

        Raises:
            StoreError: A file was replaced and deleted before it was checked.
        """
        for file in self.files:
            checked = check_file(self._folder, file, self._tables.get(file.table))
            if any(found.kind == "missing" for found in checked.findings) and self.is_outdated():
                raise StoreError(
                    f"{file.path} was replaced while run {self._run_id} was checked: check again "
                    f"when its writers are done"
                )
            self.findings += checked.findings
            if checked.readable:
                self.noted.append(checked.file)
            self._advance(file.bytes)
        self.unknown.update(f.table for f in self.files if f.table not in self._tables)
        run = self._run()
        if run is None:
            return
        self._check_experts(run)
        traces = self._traces(run)
        self.traces = traces.ids
        self.findings = [self._with_traces(found, traces) for found in self.findings]
        self._check_tables(traces)

    def _readable(self, table: str) -> list[File]:
        return [file for file in self.noted if file.table == table]

    def _advance(self, done: int) -> None:
        self._done += done
        self._on_bytes(self._done)

    def is_outdated(self) -> bool:
        """Whether a file has been replaced and deleted since this object was created."""
        now = {file.path for file in self._manifest.snapshot()[2]}
        return any(f.path not in now and not self._folder.exists(f.path) for f in self.files)

    def _run(self) -> dict | None:
        """The run's row of ``runs``; None unless there is exactly one."""
        rows = [
            row
            for file in self._readable("runs")
            for row in parquet.read(self._folder, file.path, self._tables["runs"]).to_pylist()
            if row["run_id"] == self._run_id
        ]
        if self._shape is None:
            self._find(LOST, "run", "runs", "has files, but is not in the manifest", RUN_COPY)
        elif len(rows) == 1:
            found = RunShape.of_row(rows[0])
            if found.to_json() != self._shape.to_json():
                what = f"is {found} in `runs`, and {self._shape} in the manifest"
                self._find(WRONG, "shape", "runs", what, RUN_COPY)
            return rows[0]
        elif len(rows) > 1 or len(self._readable("runs")) == self._count("runs"):
            self._find(
                LOST, "run", "runs", f"has {len(rows)} rows in `runs` instead of one", RUN_COPY
            )
        return None

    def _count(self, table: str) -> int:
        return sum(file.table == table for file in self.files)

    def _with_traces(self, found: Finding, traces: RunTraces) -> Finding:
        """Add the affected traces to a finding about a file, if no other finding will name them.

        Lost rows of tokens show as gaps, and a lost row of ``traces`` leaves other rows without an
        owner. But tables that were recorded for some tokens only show no gap.
        """
        file = next((file for file in self.files if file.path == found.path), None)
        if file is None or found.severity != LOST or found.traces or file.table in BESIDE:
            return found
        if file.table not in self._tables:  # no trace depends on what is not known here
            return found
        if found.kind == "checksum" and self._tables[file.table].has("trace_id"):
            ids = parquet.columns(self._folder, file.path, ["trace_id"])["trace_id"].unique()
            return replace(found, traces=tuple(ids.to_pylist()))
        if self._tables[file.table].tiles is None and file.table in self._recorded:
            return replace(found, traces=tuple(traces.within([file]).tolist()))
        return found

    def _check_experts(self, run: dict) -> None:
        wanted = len(run["sparse_layers"]) * run["experts"]
        found = sum(file.rows for file in self._readable("experts"))
        if found != wanted and len(self._readable("experts")) == self._count("experts"):
            what = f"has {found:,} rows in `experts` instead of {wanted:,}"
            self._find(LOST, "rows", "experts", what, RUN_COPY)

    def _traces(self, run: dict) -> RunTraces:
        counts = [f"n_{phase}" for phase in captured.PHASES]
        columns = ["trace_id", "run_id", *counts, "finish_reason", "resumed_at", "flags"]
        rows: dict[int, dict] = {}
        for file in self._readable("traces"):
            with parquet.reading(self._folder, file.path) as opened:
                self._modern &= "resumed_at" in opened.schema_arrow.names
            found = parquet.read(self._folder, file.path, self._tables["traces"])
            for row in found.select(columns).to_pylist():
                trace_id = row["trace_id"]
                if row["run_id"] != self._run_id:
                    what = f"has trace {trace_id} of run {row['run_id']}"
                    self._find(LOST, "foreign", file.path, what, DROP, (trace_id,))
                elif trace_id in rows:
                    what = f"has trace {trace_id} a second time"
                    self._find(LOST, "twice", file.path, what, DROP, (trace_id,))
                rows[trace_id] = row
        ids = np.array(sorted(rows), np.int64)
        tokens = [sum(rows[int(i)][name] for name in counts) for i in ids]
        return RunTraces(run, ids, np.array(tokens, np.int64), rows)

    def _by_table(self) -> dict[str, list[File]]:
        return {name: self._readable(name) for name in self._tables}

    def _summed(self) -> dict[str, list[File]]:
        """Readable files by table, without sums by role where the steps are lost."""
        whole = self._is_whole("steps")
        found = self._by_table()
        return {name: files for name, files in found.items() if whole or name != "usage_roles"}

    def _recorded_traces(self, table: Table, promise: Promise, traces: RunTraces) -> Ints | None:
        """Traces for which the run recorded a table; None, with a finding, if all of it is gone."""
        if table.name not in promise.tables:
            return traces.ids[:0]
        if not self._readable(table.name) and (traces.tokens > 1).any():
            self.findings.append(gone(table.name, bool(self._count(table.name)), self._run_id))
            return None
        # A server returns routing only for the tokens that it was asked for, in some traces none.
        known = list(promise.without.get(table.name, ()))
        return traces.ids[~np.isin(traces.ids, known)] if traces.whole(table) else traces.ids[:0]

    def _check_tables(self, traces: RunTraces) -> None:
        promise = traces.promise
        self.unknown.update(dict.fromkeys(promise.unknown, 0))
        read = {file.path for file in self.noted}
        numbers = NumberFaults(traces)
        for name, table in self._tables.items():
            files = self._readable(name)
            if name == "traces" or "trace_id" not in table.arrow.names:
                self._advance(sum(file.bytes for file in files))
            else:
                lost = [file for file in self.files if file.table == name and file.path not in read]
                due = traces.ids if name == "tokens" else traces.within(lost)
                recorded = self._recorded_traces(table, promise, traces)
                if recorded is None:
                    due = recorded = traces.ids[:0]
                self.findings += check_table(
                    self._folder,
                    files,
                    due,
                    recorded,
                    table,
                    traces,
                    self._advance,
                    numbers.looking_at(table),
                )
        by_table = self._by_table()
        self.findings += check_chosen(
            self._folder, by_table, {f.table for f in self.files}, promise, traces
        )
        self.findings += numbers.findings()
        # The checks below skip traces that already have a finding: they would only repeat it.
        known = {trace_id for found in self._lost() for trace_id in found.traces}
        known |= promise.without.get("routing", frozenset())
        if self._is_whole("tokens"):
            self.findings += [
                finding
                for finding in check_phases(self._folder, by_table["tokens"], traces)
                if finding.kind == captured.TRUNCATED or set(finding.traces) - known
            ]
        self.flagged = {i: row["flags"] for i, row in traces.rows.items() if row["flags"]}
        known |= {i for i, flags in self.flagged.items() if captured.NONFINITE in flags}
        # Counting and comparing choices needs valid expert ids, and complete tables.
        if not any(found.kind == "expert" for found in self._lost()):
            if self._is_whole("tokens", "routing") and by_table["tokens"]:
                self.findings += check_usage(self._folder, self._summed(), traces, known)
                if self._modern and self._is_whole(*promise.rollups):
                    self.findings += check_rollups(by_table, promise, self._run_id)
            biased = not any(found.path == "experts" for found in self._lost())
            if self._is_whole("routing", "experts") and biased and by_table["routing"]:
                self._check_choices(known)

    def _lost(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == LOST]

    def _is_whole(self, *tables: str) -> bool:
        """Whether all files of some tables are readable."""
        return all(len(self._readable(name)) == self._count(name) for name in tables)

    def _check_choices(self, known: set[int]) -> None:
        for file in self._readable("router_logits"):
            checked = verify_choices(self._store, [file])
            self.choices += checked.rows
            if new := set(checked.traces) - known:
                what = f"has choices that do not follow from their logits, in {named(new)}"
                self._find(LOST, "choice", file.path, what, DROP, tuple(sorted(new)))

    def _find(
        self,
        severity: str,
        kind: str,
        path: str,
        what: str,
        advice: str,
        traces: tuple[int, ...] = (),
    ) -> None:
        sentence = f"{path} {what}" if "/" in path else f"run {self._run_id} {what}"
        self.findings.append(Finding(severity, kind, path, sentence, advice, self._run_id, traces))
