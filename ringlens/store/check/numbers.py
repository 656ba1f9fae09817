"""What a run's numbers say: phases against the counts of `traces`, and numbers that are none.

One pass over each file, a batch of rows at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.check.files import BATCH
from ringlens.store.check.finding import FLAG, LOST, Finding
from ringlens.store.check.rows import RunTraces, named
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.captured import NONFINITE, PHASES, TOKENS, TRUNCATED
from ringlens.store.schema.instruments import tables
from ringlens.store.schema.table import Table
from ringlens.store.storage.folder import Folder


@dataclass
class Told:
    """What the tokens of one trace say.

    Attributes:
        phases: Tokens of each phase, in the order of `PHASES`.
        prompt: Tokens before the first that is none of the prompt.
    """

    phases: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(PHASES), np.int64))
    prompt: int = 2**31


def check_phases(folder: Folder, files: Sequence[File], traces: RunTraces) -> Iterator[Finding]:
    """Compare phases with the counts of ``traces``, and find traces made of a part of a prompt.

    Args:
        folder: Where the files live.
        files: All files of ``tokens``.
        traces: The run's.
    """
    told: dict[int, Told] = defaultdict(Told)
    for file in files:
        for batch in _batches(folder, file, ["trace_id", "pos", "phase"]):
            _tell(batch, told)
    run_id = traces.run["run_id"]
    differ = {i for i, row in traces.rows.items() if i in told and _differs(row, told[i])}
    if differ:
        what = f"tokens has other phases than n_prompt, n_think and n_answer say of {named(differ)}"
        yield _lost("phase", "tokens", f"{what} of run {run_id}", run_id, differ)
    short = {
        trace_id
        for trace_id, row in traces.rows.items()
        if traces.run["mode"] == "live"
        and trace_id in told
        # Today a trace that is taken up inside its prompt has no such position.
        and any(pos < told[trace_id].prompt for pos in row["resumed_at"] or ())
        and TRUNCATED not in (row["flags"] or ())
    }
    if short:
        what = f"{named(short)} of run {run_id} went on from a part of the prompt"
        yield _lost(TRUNCATED, "traces", what, run_id, short, FLAG)


def check_numbers(
    folder: Folder, files: Mapping[str, Sequence[File]], traces: RunTraces
) -> Iterator[Finding]:
    """Find numbers that are NaN or infinite, and lost log-probabilities, in traces without a flag.

    Args:
        folder: Where the files live.
        files: Those that can be read, by table.
        traces: The run's.
    """
    run = traces.run
    flagged = {i for i, row in traces.rows.items() if NONFINITE in (row["flags"] or ())}
    wanted = "logprobs" in run["record"] and run["mode"] != "imported"
    for table in (TOKENS, *tables()):
        nan: set[int] = set()
        null: set[int] = set()
        for file in files.get(table.name, ()):
            for batch in _batches(folder, file, _float_columns(folder, file)):
                nan |= _nonfinite(batch, table)
                if table == TOKENS and wanted:
                    null |= _without_logprob(batch)
        for kind, found, what in (
            (NONFINITE, nan - flagged, "has numbers that are NaN or infinite in"),
            ("logprob", null - flagged, "lacks log-probabilities of"),
        ):
            if found:
                sentence = f"{table.name} {what} {named(found)} of run {run['run_id']}"
                yield _lost(kind, table.name, sentence, run["run_id"], found, FLAG)


def _lost(
    kind: str, path: str, sentence: str, run_id: str, ids: set[int], advice: str = FLAG
) -> Finding:
    return Finding(LOST, kind, path, sentence, advice, run_id, tuple(sorted(ids)))


def _batches(folder: Folder, file: File, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(folder.source(file.path)) as opened:
        yield from opened.iter_batches(BATCH, columns=columns)


def _float_columns(folder: Folder, file: File) -> list[str]:
    """Keys, and the columns that hold floats."""
    with pq.ParquetFile(folder.source(file.path)) as opened:
        arrow = opened.schema_arrow
    floats = [f.name for f in arrow if pa.types.is_floating(getattr(f.type, "value_type", f.type))]
    return ["trace_id", "pos", *floats]


def _tell(batch: pa.RecordBatch, told: dict[int, Told]) -> None:
    trace_R, pos_R = batch["trace_id"].to_numpy(), batch["pos"].to_numpy()
    place_R = pc.index_in(batch["phase"], pa.array(PHASES)).fill_null(0).to_numpy()
    ids, index_R = np.unique(trace_R, return_inverse=True)
    counts = np.bincount(index_R * len(PHASES) + place_R, minlength=len(ids) * len(PHASES))
    first = np.full(len(ids), 2**31, np.int64)
    other_R = place_R != 0
    np.minimum.at(first, index_R[other_R], pos_R[other_R])
    for row, trace_id in enumerate(ids.tolist()):
        told[trace_id].phases += counts.reshape(len(ids), -1)[row]
        told[trace_id].prompt = min(told[trace_id].prompt, int(first[row]))


def _differs(row: dict, told: Told) -> bool:
    return [row[f"n_{phase}"] for phase in PHASES] != told.phases.tolist()


def _nonfinite(batch: pa.RecordBatch, table: Table) -> set[int]:
    """Traces of which a number is none."""
    found: set[int] = set()
    for name in batch.schema.names[2:]:
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
    """Traces of which a token behind the first has no log-probability."""
    null_R = batch["logprob"].is_null().to_numpy(False) & (batch["pos"].to_numpy() > 0)
    return set(batch["trace_id"].to_numpy()[null_R].tolist())
