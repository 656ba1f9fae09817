"""Checks phases against the counts of `traces`, and finds numbers that are not finite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.check.files import BATCH
from ringlens.store.check.finding import FLAG, LOST, Finding
from ringlens.store.check.rows import Look, RunTraces, holds_floats, named
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.captured import NONFINITE, PHASES, TOKENS, TRUNCATED
from ringlens.store.schema.instruments import tables
from ringlens.store.schema.table import Table
from ringlens.store.storage.folder import Folder


@dataclass
class TokenPhases:
    """Phases of the tokens of one trace.

    Attributes:
        phases: Number of tokens of each phase, in the order of `PHASES`.
        prompt: Number of tokens before the first that is not part of the prompt.
    """

    phases: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(PHASES), np.int64))
    prompt: int = 2**31


def check_phases(folder: Folder, files: Sequence[File], traces: RunTraces) -> Iterator[Finding]:
    """Compare phases with the counts of ``traces``, and find traces with a part of their prompt.

    Args:
        folder: The store's folder.
        files: All files of ``tokens``.
        traces: The run's traces.
    """
    counted: dict[int, TokenPhases] = defaultdict(TokenPhases)
    for file in files:
        with pq.ParquetFile(folder.source(file.path)) as opened:
            for batch in opened.iter_batches(BATCH, columns=["trace_id", "pos", "phase"]):
                _count_phases(batch, counted)
    run_id = traces.run["run_id"]
    differ = {i for i, row in traces.rows.items() if i in counted and _differs(row, counted[i])}
    if differ:
        what = f"phases of tokens contradict n_prompt, n_think and n_answer in {named(differ)}"
        yield _lost("phase", "tokens", f"{what} of run {run_id}", run_id, differ)
    short = {
        trace_id
        for trace_id, row in traces.rows.items()
        if traces.run["mode"] == "live"
        and trace_id in counted
        # A writer of today never notes a resumption inside the prompt: it restarts such a trace.
        and any(pos < counted[trace_id].prompt for pos in row["resumed_at"] or ())
        and TRUNCATED not in (row["flags"] or ())
    }
    if short:
        what = f"{named(short)} of run {run_id} continued after only a part of the prompt"
        yield _lost(TRUNCATED, "traces", what, run_id, short, FLAG)


class NumberFaults:
    """Collects traces with numbers that are NaN or infinite, or without log-probabilities.

    Traces that are already flagged for it are left out.

    Args:
        traces: The run's traces.
    """

    def __init__(self, traces: RunTraces) -> None:
        self._traces = traces
        run = traces.run
        self._wants_logprobs = "logprobs" in run["record"] and run["mode"] != "imported"
        self._nonfinite: dict[str, set[int]] = {t.name: set() for t in (TOKENS, *tables())}
        self._without_logprob: set[int] = set()

    def looking_at(self, table: Table) -> Look | None:
        """Function that takes in batches of a table; None if the table has no numbers to check."""
        return partial(self._look, table) if table.name in self._nonfinite else None

    def _look(self, table: Table, batch: pa.RecordBatch) -> None:
        self._nonfinite[table.name] |= _nonfinite(batch, table)
        if table.name == TOKENS.name and self._wants_logprobs:
            self._without_logprob |= _without_logprob(batch)

    def findings(self) -> Iterator[Finding]:
        """Findings from all batches so far."""
        run_id = self._traces.run["run_id"]
        flagged = {i for i, row in self._traces.rows.items() if NONFINITE in (row["flags"] or ())}
        for table, nonfinite in self._nonfinite.items():
            null = self._without_logprob if table == TOKENS.name else set()
            for kind, found, what in (
                (NONFINITE, nonfinite - flagged, "has numbers that are NaN or infinite in"),
                ("logprob", null - flagged, "lacks log-probabilities of"),
            ):
                if found:
                    sentence = f"{table} {what} {named(found)} of run {run_id}"
                    yield _lost(kind, table, sentence, run_id, found, FLAG)


def _lost(
    kind: str, path: str, sentence: str, run_id: str, ids: set[int], advice: str = FLAG
) -> Finding:
    return Finding(LOST, kind, path, sentence, advice, run_id, tuple(sorted(ids)))


def _count_phases(batch: pa.RecordBatch, counted: dict[int, TokenPhases]) -> None:
    trace_R, pos_R = batch["trace_id"].to_numpy(), batch["pos"].to_numpy()
    phase_R = pc.index_in(batch["phase"], pa.array(PHASES)).fill_null(0).to_numpy()
    ids, index_R = np.unique(trace_R, return_inverse=True)
    # One bincount over (trace, phase) pairs.
    counts = np.bincount(index_R * len(PHASES) + phase_R, minlength=len(ids) * len(PHASES))
    first = np.full(len(ids), 2**31, np.int64)
    other_R = phase_R != 0
    np.minimum.at(first, index_R[other_R], pos_R[other_R])
    for row, trace_id in enumerate(ids.tolist()):
        counted[trace_id].phases += counts.reshape(len(ids), -1)[row]
        counted[trace_id].prompt = min(counted[trace_id].prompt, int(first[row]))


def _differs(row: dict, counted: TokenPhases) -> bool:
    return [row[f"n_{phase}"] for phase in PHASES] != counted.phases.tolist()


def _nonfinite(batch: pa.RecordBatch, table: Table) -> set[int]:
    """Traces with a number that is NaN or infinite where it must not be."""
    found: set[int] = set()
    for name in [each.name for each in batch.schema if holds_floats(each.type)]:
        column = batch[name]
        listed = pa.types.is_list(column.type)
        values = column.flatten() if listed else column
        wrong = ~np.isfinite(values.to_numpy(zero_copy_only=False))
        if listed and not wrong.any():
            continue
        row_R = pc.list_parent_indices(column).to_numpy() if listed else np.arange(len(column))
        known = np.ones(len(wrong), bool) if listed else column.is_valid().to_numpy(False)
        wrong &= known
        if (column_of := table.column(name)) and column_of.infinite is not None:
            wrong &= values.to_numpy(zero_copy_only=False) != column_of.infinite
        found.update(batch["trace_id"].to_numpy()[row_R[wrong]].tolist())
    return found


def _without_logprob(batch: pa.RecordBatch) -> set[int]:
    """Traces in which a token after the first has no log-probability."""
    null_R = batch["logprob"].is_null().to_numpy(False) & (batch["pos"].to_numpy() > 0)
    return set(batch["trace_id"].to_numpy()[null_R].tolist())
