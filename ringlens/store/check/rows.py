"""Checks the rows of a run against its traces: unknown owners, missing and duplicate rows.

Files that may hold the same traces are read together, in batches.

Shape letters: R rows of a batch, k experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.check.files import BATCH
from ringlens.store.check.finding import DROP, GONE, LOST, NOTE_LOST, Finding
from ringlens.store.check.tiling import Ints, Segments, faults
from ringlens.store.encode.columns import ragged
from ringlens.store.manifest.entries import File, sharing_traces
from ringlens.store.schema.captured import RUNNING
from ringlens.store.schema.promise import Promise
from ringlens.store.schema.table import Table
from ringlens.store.storage.folder import Folder

NAMED = 8
"""Number of traces that a message names."""

Advance = Callable[[int], None]
"""Called with the bytes of each file that is done."""

Look = Callable[[pa.RecordBatch], None]
"""Called with each batch: trace ids, positions and columns of floats."""


@dataclass(frozen=True)
class RunTraces:
    """The traces of a run, with which all its rows are compared.

    Attributes:
        run: The run's row of ``runs``.
        ids: Ids of its traces, ascending.
        tokens: Number of tokens of each trace.
        rows: Some columns of ``traces``, by trace id.
    """

    run: dict
    ids: Ints
    tokens: Ints
    rows: dict[int, dict] = field(default_factory=dict)

    @cached_property
    def promise(self) -> Promise:
        """What the run recorded."""
        return Promise.of(self.run)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Flags of the traces that have ended."""
        return np.array([self.rows[i]["finish_reason"] != RUNNING for i in self.ids.tolist()], bool)

    def layers(self, table: Table) -> Ints:
        """Layers on which each trace has rows."""
        if not table.has("layer"):
            return np.zeros(1, np.int64)
        if (some := self.promise.layers.get(table.name)) is not None:
            return np.array(some)
        sparse = table.is_sparse
        return np.array(self.run["sparse_layers"] if sparse else range(self.run["layers"]))

    def whole(self, table: Table) -> bool:
        """Whether a table covers every token; servers leave out the routing of some tokens."""
        tiles = table.tiles
        return tiles is not None and (tiles.imported or self.run["mode"] != "imported")

    def within(self, files: Sequence[File]) -> Ints:
        """Traces that some files may hold."""
        inside = np.zeros(len(self.ids), bool)
        for file in files:
            inside |= (self.ids >= file.first_trace) & (self.ids <= file.last_trace)
        return self.ids[inside]


@dataclass
class TableFaults:
    """Faults in one table of a run, by trace.

    Attributes:
        present: Traces that have rows.
        foreign: Traces with rows that are not in ``traces``.
        outside: Traces with rows beyond their tokens or layers.
        experts: Traces with experts that the model does not have, or twice in one row.
        missing: Trace → (layer, position) of a token without a row.
        twice: Trace → (layer, position) of a token with several rows.
    """

    present: set[int] = field(default_factory=set)
    foreign: set[int] = field(default_factory=set)
    outside: set[int] = field(default_factory=set)
    experts: set[int] = field(default_factory=set)
    missing: dict[int, tuple[int, int]] = field(default_factory=dict)
    twice: dict[int, tuple[int, int]] = field(default_factory=dict)


def check_table(
    folder: Folder,
    files: Sequence[File],
    due: Ints,
    recorded: Ints,
    table: Table,
    traces: RunTraces,
    advance: Advance,
    look: Look | None = None,
) -> Iterator[Finding]:
    """Check the rows of one table of a run.

    Args:
        folder: The store's folder.
        files: Readable files of the table.
        due: Traces that must have rows in it.
        recorded: Traces for which the run recorded the table.
        table: The table, which must have trace ids.
        traces: The run's traces.
        advance: Called with the bytes of each file that is done.
        look: Called with each batch, which then has the columns of floats as well.
    """
    seen = TableFaults()
    for group in sharing_traces(files):
        segments = Segments()
        for file in group:
            for batch in _batches(folder, file, table, with_floats=look is not None):
                if look is not None:
                    look(batch)
                _look_at_keys(batch, table, traces, seen, segments)
            advance(file.bytes)
        if table.tiles:
            _compare(segments.sorted(), table, traces, seen)
    if table.tiles:
        absent = set(due.tolist()) - seen.present
        if absent:
            seen.missing |= dict.fromkeys(absent, (int(traces.layers(table)[0]), 0))
        if gone := set(recorded.tolist()) - seen.present - absent:
            run_id = traces.run["run_id"]
            what = f"run {run_id} recorded {table.name}, but has no row of it for {named(gone)}"
            ids = tuple(sorted(gone))
            yield Finding(LOST, GONE, table.name, what, NOTE_LOST, run_id, ids)
    yield from _findings(seen, table, traces)


def _batches(
    folder: Folder, file: File, table: Table, *, with_floats: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the key columns of a file, on request with all columns of floats."""
    with pq.ParquetFile(folder.source(file.path)) as opened:
        arrow = opened.schema_arrow
        columns = [name for name in _keys(table) if name in arrow.names]
        if with_floats:
            columns += [each.name for each in arrow if holds_floats(each.type)]
        yield from opened.iter_batches(BATCH, columns=columns)


def _keys(table: Table) -> tuple[str, ...]:
    keys = ("trace_id", "layer", "pos", "expert_ids", "token_end")
    return (*keys, table.tiles.length) if table.tiles and table.tiles.length else keys


def holds_floats(kind: pa.DataType) -> bool:
    """Whether a column holds floats, or lists of them."""
    return pa.types.is_floating(getattr(kind, "value_type", kind))


def _look_at_keys(
    batch: pa.RecordBatch, table: Table, traces: RunTraces, seen: TableFaults, segments: Segments
) -> None:
    """Note what the key columns of a batch show."""
    batch = batch.select([name for name in _keys(table) if name in batch.schema.names])
    batch = batch.filter(pc.is_valid(batch["trace_id"]))  # a probe may be about a whole run
    trace_R = batch["trace_id"].to_numpy()
    ids = np.unique(trace_R)
    seen.foreign.update(ids[~np.isin(ids, traces.ids)].tolist())
    seen.present.update(ids.tolist())
    names = batch.schema.names
    zeros_R = np.zeros(len(trace_R), np.int64)
    layer_R = _ints(batch["layer"]) if "layer" in names else zeros_R
    if table.tiles:
        length = _ints(batch[table.tiles.length]) if table.tiles.length else 1
        segments.add(trace_R, layer_R, _ints(batch["pos"]), length)
    elif end := next((name for name in ("pos", "token_end") if name in names), None):
        over = end == "pos"
        _note_outside(trace_R, layer_R, _ints(batch[end]) + over, traces, seen)
    if "expert_ids" in names and len(trace_R):
        seen.experts.update(trace_R[_bad_experts(batch["expert_ids"], traces.run)].tolist())


def _ints(column: pa.Array) -> Ints:
    return column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _note_outside(
    trace_R: Ints, layer_R: Ints, stop_R: Ints, traces: RunTraces, seen: TableFaults
) -> None:
    known_R = np.isin(trace_R, traces.ids)
    trace_R, layer_R, stop_R = trace_R[known_R], layer_R[known_R], stop_R[known_R]
    total_R = traces.tokens[np.searchsorted(traces.ids, trace_R)]
    wrong_R = (stop_R > total_R) | (stop_R < 0) | (layer_R >= traces.run["layers"])
    seen.outside.update(trace_R[wrong_R].tolist())


def _bad_experts(column: pa.Array, run: dict) -> NDArray[np.bool_]:
    """Flag rows whose experts are not k different experts of the model."""
    ids, offsets = ragged(pa.chunked_array([column]))
    count_R = np.diff(offsets)
    wrong_R = count_R != run["experts_per_token"]
    row = np.repeat(np.arange(len(count_R)), count_R)
    np.logical_or.at(wrong_R, row, ids >= run["experts"])
    if not wrong_R.any():
        ids_Rk = np.sort(ids.reshape(len(count_R), -1), axis=1)
        wrong_R = (ids_Rk[:, 1:] == ids_Rk[:, :-1]).any(axis=1)
    return wrong_R


def _compare(segments: Ints, table: Table, traces: RunTraces, seen: TableFaults) -> None:
    here = np.isin(traces.ids, segments[0])
    found = faults(
        segments,
        traces.ids[here],
        traces.tokens[here],
        traces.layers(table),
        traces.whole(table),
    )
    seen.missing |= found.missing
    seen.twice |= found.twice
    known = np.isin(segments[1], traces.layers(table)) | ~np.isin(segments[0], traces.ids)
    seen.outside.update(segments[0][~known].tolist())


def _findings(seen: TableFaults, table: Table, traces: RunTraces) -> Iterator[Finding]:
    run_id = traces.run["run_id"]

    def lost(kind: str, ids: set[int], what: str) -> Iterator[Finding]:
        if ids:
            sentence = f"{table.name} {what} {named(ids)} of run {run_id}"
            yield Finding(LOST, kind, table.name, sentence, DROP, run_id, tuple(sorted(ids)))

    yield from lost("foreign", seen.foreign, "has rows of traces that are not in `traces`:")
    yield from lost("gap", set(seen.missing), f"lacks rows{_at(seen.missing, table)} of")
    yield from lost("twice", set(seen.twice), f"has too many rows{_at(seen.twice, table)} of")
    yield from lost("outside", seen.outside, "has rows beyond the tokens or layers of")
    yield from lost("expert", seen.experts, "has experts that do not exist, or twice, in")


def named(ids: set[int]) -> str:
    """Name traces in a message, only the first if there are many."""
    shown = ", ".join(map(str, sorted(ids)[:NAMED]))
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f"trace{'s' if len(ids) > 1 else ''} {shown}{more}"


def _at(places: dict[int, tuple[int, int]], table: Table) -> str:
    if not places:
        return ""
    layer, pos = places[min(places)]
    place = f"layer {layer}, " if table.has("layer") else ""
    return f" (first at {place}pos {pos})"
