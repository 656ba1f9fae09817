"""Rewrites rows of a committed trace or run: continued traces, changed tokens, the end of a run.

Committed files never change. A commit that replaces rows writes new files with these rows and with
the other rows of the old files, and retires the old files in the transaction that registers the
new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ringlens.errors import NotInStoreError, ObservationError
from ringlens.store.commit.files import CommitFiles
from ringlens.store.commit.rewriter import Rewriter
from ringlens.store.encode import expert_usage
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.read import intact
from ringlens.store.schema import captured, usage_tables
from ringlens.store.schema.records import TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder
from ringlens.store.write import recount

ROWS = 20_000
"""Rows per row group of a rewritten file."""


@dataclass(frozen=True)
class Part:
    """Describes how a record continues a committed trace.

    Attributes:
        trace_id: The trace.
        start: Position of the record's first token.
        first_character: Start of that token in the trace's text; None without tokens.
        rewritten: Phases of all tokens before ``start``, if these are rewritten.
    """

    trace_id: int
    start: int
    first_character: int | None
    rewritten: NDArray[np.uint8] | None


@dataclass(frozen=True)
class PrimaryRows:
    """New rows of ``traces`` and the continued traces, as the primary sends them to rank 0."""

    rows: pa.RecordBatch
    parts: tuple[Part, ...]


def parts_of(records: Sequence[TraceRecord]) -> tuple[Part, ...]:
    """Describe the records that continue a trace."""
    return tuple(
        Part(
            record.trace_id,
            record.start,
            int(record.tokens.start[0]) if len(record.tokens.start) else None,
            recount.phase_indices(record.rewritten.phase) if record.rewritten is not None else None,
        )
        for record in records
        if record.trace_id is not None
    )


def replace_traces(manifest: Manifest, files: CommitFiles, primary: PrimaryRows) -> list[str]:
    """Stage the ``traces`` file of a commit, and rewrite traces whose earlier tokens changed.

    For the latter, stored rows of ``tokens`` and ``usage_roles`` are dropped, and ``usage_traces``
    is recounted.

    Returns:
        Paths of the replaced files.

    Raises:
        NotInStoreError: A continued trace does not exist.
        ObservationError: A record does not continue where the stored part ends.
    """
    old, kept, retire = _split(
        manifest, files, captured.TRACES, [p.trace_id for p in primary.parts]
    )
    _check_parts(old, primary, files.commit.run_id)
    # Every new row of `traces` goes into the same file, beside the other rows of the old ones.
    rows = sort(pa.concat_tables([kept, pa.Table.from_batches([primary.rows])]), captured.TRACES)
    files.stage(captured.TRACES, batches(rows), rows["trace_id"].to_pylist())

    rewritten = {
        part.trace_id: part.rewritten for part in primary.parts if part.rewritten is not None
    }
    # The rewritten tokens themselves are among the files that the primary has staged.
    _, kept, tokens = _split(manifest, files, captured.TOKENS, list(rewritten))
    _stage_kept(files, captured.TOKENS, kept)
    _, kept, roles = _split(manifest, files, usage_tables.USAGE_ROLES, list(rewritten))
    _stage_kept(files, usage_tables.USAGE_ROLES, kept)
    return retire + tokens + roles + _recount(manifest, files, rewritten)


def end_run(manifest: Manifest, files: CommitFiles, finished: datetime) -> list[str]:
    """Stage the row of a run that has ended; return the paths that it replaces."""
    (file,) = manifest.files(captured.RUNS.name, files.commit.run_id)
    intact.require(files.folder, [file])
    (row,) = parquet.read(files.folder, file.path, captured.RUNS).to_pylist()
    batch = pa.RecordBatch.from_pylist([row | {"finished": finished}], captured.RUNS.arrow)
    files.stage(captured.RUNS, [batch])
    return [file.path]


def note_lost(rewriter: Rewriter, run_id: str, tables: Sequence[str]) -> None:
    """Note in a run's row that tables which it recorded are lost.

    Raises:
        StoreError: The row cannot be read or written; nothing has changed.
    """

    def work(files: CommitFiles) -> list[str]:
        (file,) = rewriter.manifest.files(captured.RUNS.name, run_id)
        intact.require(files.folder, [file])
        (row,) = parquet.read(files.folder, file.path, captured.RUNS).to_pylist()
        row["lost"] = sorted({*(row["lost"] or ()), *tables})
        files.stage(captured.RUNS, [pa.RecordBatch.from_pylist([row], captured.RUNS.arrow)])
        return [file.path]

    rewriter.replace(run_id, work)


def _recount(manifest: Manifest, files: CommitFiles, rewritten: recount.Phases) -> list[str]:
    """Stage ``usage_traces`` of traces whose phases changed; return the paths that it replaces."""
    if not rewritten:
        return []
    table, run_id = usage_tables.USAGE_TRACES, files.commit.run_id
    _, kept, retire = _split(manifest, files, table, list(rewritten))
    # Only the stored part of the routing: what this commit adds was counted when it was encoded.
    routing = manifest.files("routing", run_id, min(rewritten), max(rewritten))
    shape = manifest.run_shape(run_id)
    if routing and shape is not None:
        intact.require(files.folder, routing)
        paths = [file.path for file in routing]
        experts = RunShape.from_json(shape).experts
        counted = recount.cells_of(files.folder, paths, rewritten, experts)
        if cells := [each.summed(*table.key) for each in counted]:
            new = expert_usage.batch(table, run_id, expert_usage.joined(cells))
            kept = pa.concat_tables([kept, pa.Table.from_batches([new])])
    _stage_kept(files, table, kept)
    return retire


def _stage_kept(files: CommitFiles, table: Table, rows: pa.Table) -> None:
    """Stage rows that are carried over from replaced files."""
    if rows.num_rows:
        ids = pc.unique(rows["trace_id"]).to_pylist()
        files.stage(table, batches(sort(rows, table)), ids, "-kept")


def _split(
    manifest: Manifest, files: CommitFiles, table: Table, trace_ids: Sequence[int]
) -> tuple[pa.Table, pa.Table, list[str]]:
    """Read the rows of some traces, the other rows of the same files, and the files' paths."""
    empty = table.arrow.empty_table()
    if not trace_ids:
        return empty, empty, []
    wanted = pa.array(trace_ids, pa.int64())
    run_id = files.commit.run_id
    span = manifest.files(table.name, run_id, min(trace_ids), max(trace_ids))
    # Otherwise a flipped bit would be written again under a valid checksum.
    intact.require(files.folder, span)
    holding = [file for file in span if holds(files.folder, file, wanted)]
    rows = pa.concat_tables(
        [empty, *(parquet.read(files.folder, file.path, table) for file in holding)]
    )
    hit = pc.is_in(rows["trace_id"], wanted)
    return rows.filter(hit), rows.filter(pc.invert(hit)), [file.path for file in holding]


def holds(folder: Folder, file: File, wanted: pa.Array) -> bool:
    """Whether a file has rows of any of some traces."""
    ids = parquet.columns(folder, file.path, ["trace_id"])["trace_id"]
    return bool(pc.any(pc.is_in(ids, wanted)).as_py())


def sort(rows: pa.Table, table: Table) -> pa.Table:
    """Sort rows by the table's key."""
    return rows.sort_by([(name, "ascending") for name in table.key])


def batches(rows: pa.Table, limit: int = ROWS) -> Iterator[pa.RecordBatch]:
    """Split rows into row groups of at most ``limit`` rows."""
    yield from rows.combine_chunks().to_batches(limit)


def _check_parts(old: pa.Table, primary: PrimaryRows, run_id: str) -> None:
    before = {row["trace_id"]: row for row in old.to_pylist()}
    texts = dict(
        zip(*(primary.rows[name].to_pylist() for name in ("trace_id", "text")), strict=True)
    )
    for part in primary.parts:
        if part.trace_id not in before:
            raise NotInStoreError(
                f"there is no trace {part.trace_id} in run {run_id} to continue: store its first "
                f"part with trace_id=None and pass the id that this returns"
            )
        _check_part(before[part.trace_id], part, texts[part.trace_id])


def _check_part(before: dict, part: Part, text: str) -> None:
    """Check that a part continues exactly where the stored trace ends."""
    name = f"trace {part.trace_id}"
    stored = before["n_prompt"] + before["n_think"] + before["n_answer"]
    if before["finish_reason"] != captured.RUNNING:
        raise ObservationError(
            f"{name} has ended ({before['finish_reason']!r}) and cannot be continued: store a new "
            f"trace"
        )
    if part.start != stored:
        raise ObservationError(
            f"{name} has {stored} tokens in the store, but its next part starts at {part.start}: "
            f"start where it ends"
        )
    if part.rewritten is not None:
        return
    written = len(before["text"])
    if not text.startswith(before["text"]) or part.first_character not in (None, written):
        raise ObservationError(
            f"the text of {name} does not continue after the {written} characters in the store: "
            f"pass `rewritten` if earlier tokens have changed"
        )
