"""The rows of one run against its traces: whose they are, whether any is missing or too many.

Files are read a batch of key columns at a time, those that can hold the same traces together.

Shape letters: R rows of a batch, k experts a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.check.files import BATCH
from ringlens.store.check.finding import DROP, GONE, LOST, NOTE_LOST, Finding
from ringlens.store.check.tiling import Ints, Segments, faults
from ringlens.store.encode.columns import ragged
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.captured import RUNNING
from ringlens.store.schema.table import Table
from ringlens.store.storage.folder import Folder

NAMED = 8
"""Traces named in a sentence."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class RunTraces:
    """What the rows of a run are compared with.

    Attributes:
        run: Its row of ``runs``.
        ids: Its traces, ascending.
        tokens: How many tokens each has.
        rows: Their rows of ``traces``, some columns of these.
    """

    run: dict
    ids: Ints
    tokens: Ints
    rows: dict[int, dict] = field(default_factory=dict)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Which of them have ended."""
        return np.array([self.rows[i]["finish_reason"] != RUNNING for i in self.ids.tolist()], bool)

    def layers(self, table: Table) -> Ints:
        """The layers that a trace has rows on."""
        if not table.has("layer"):
            return np.zeros(1, np.int64)
        sparse = table.is_sparse
        return np.array(self.run["sparse_layers"] if sparse else range(self.run["layers"]))

    def whole(self, table: Table) -> bool:
        """Whether a table covers a trace from end to end; servers leave routing of tokens out."""
        tiles = table.tiles
        return tiles is not None and (tiles.imported or self.run["mode"] != "imported")

    def within(self, files: Sequence[File]) -> Ints:
        """The traces that some files may hold."""
        inside = np.zeros(len(self.ids), bool)
        for file in files:
            inside |= (self.ids >= file.first_trace) & (self.ids <= file.last_trace)
        return self.ids[inside]


@dataclass
class Seen:
    """What came to light about one table of a run; each set holds traces."""

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
    told: Ints,
    table: Table,
    traces: RunTraces,
    advance: Advance,
) -> Iterator[Finding]:
    """Check the rows of one table of a run.

    Args:
        folder: Where the files live.
        files: Those of the table that can be read.
        due: Traces that must have rows in it.
        told: Traces of which the run says that it recorded this.
        table: The table, one with traces.
        traces: The run's.
        advance: Told the bytes of each file that is done.
    """
    seen = Seen()
    for group in overlapping(files):
        segments = Segments()
        for file in group:
            for batch in _batches(folder, file, table):
                _look(batch, table, traces, seen, segments)
            advance(file.bytes)
        if table.tiles:
            _compare(segments.sorted(), table, traces, seen)
    if table.tiles:
        absent = set(due.tolist()) - seen.present
        if absent:
            seen.missing |= dict.fromkeys(absent, (int(traces.layers(table)[0]), 0))
        if untold := set(told.tolist()) - seen.present - absent:
            run_id = traces.run["run_id"]
            what = f"run {run_id} says that it recorded {table.name}, but has no row of it for"
            ids = tuple(sorted(untold))
            yield Finding(LOST, GONE, table.name, f"{what} {named(untold)}", NOTE_LOST, run_id, ids)
    yield from _findings(seen, table, traces)


def overlapping(files: Sequence[File]) -> Iterator[list[File]]:
    """Files in groups, in order of their traces: a trace has rows in one group only."""
    group: list[File] = []
    last = -1
    for file in sorted(files, key=lambda f: (f.first_trace, f.last_trace, f.path)):
        if group and file.first_trace > last:
            yield group
            group = []
        group.append(file)
        last = max(last, file.last_trace)
    if group:
        yield group


def _batches(folder: Folder, file: File, table: Table) -> Iterator[pa.RecordBatch]:
    wanted = ["trace_id", "layer", "pos", "expert_ids", "token_end"]
    if table.tiles and table.tiles.length:
        wanted.append(table.tiles.length)
    with pq.ParquetFile(folder.source(file.path)) as opened:
        there = set(opened.schema_arrow.names)
        columns = [name for name in wanted if name in there]
        yield from opened.iter_batches(BATCH, columns=columns)


def _look(
    batch: pa.RecordBatch, table: Table, traces: RunTraces, seen: Seen, segments: Segments
) -> None:
    """Note what a batch shows."""
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
    trace_R: Ints, layer_R: Ints, stop_R: Ints, traces: RunTraces, seen: Seen
) -> None:
    known_R = np.isin(trace_R, traces.ids)
    trace_R, layer_R, stop_R = trace_R[known_R], layer_R[known_R], stop_R[known_R]
    total_R = traces.tokens[np.searchsorted(traces.ids, trace_R)]
    wrong_R = (stop_R > total_R) | (stop_R < 0) | (layer_R >= traces.run["layers"])
    seen.outside.update(trace_R[wrong_R].tolist())


def _bad_experts(column: pa.Array, run: dict) -> NDArray[np.bool_]:
    """Rows whose experts are not k different ones of the run's."""
    ids, offsets = ragged(pa.chunked_array([column]))
    count_R = np.diff(offsets)
    wrong_R = count_R != run["experts_per_token"]
    row = np.repeat(np.arange(len(count_R)), count_R)
    np.logical_or.at(wrong_R, row, ids >= run["experts"])
    if not wrong_R.any():
        ids_Rk = np.sort(ids.reshape(len(count_R), -1), axis=1)
        wrong_R = (ids_Rk[:, 1:] == ids_Rk[:, :-1]).any(axis=1)
    return wrong_R


def _compare(segments: Ints, table: Table, traces: RunTraces, seen: Seen) -> None:
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


def _findings(seen: Seen, table: Table, traces: RunTraces) -> Iterator[Finding]:
    run_id = traces.run["run_id"]

    def lost(kind: str, ids: set[int], what: str) -> Iterator[Finding]:
        if ids:
            sentence = f"{table.name} {what} {named(ids)} of run {run_id}"
            yield Finding(LOST, kind, table.name, sentence, DROP, run_id, tuple(sorted(ids)))

    yield from lost("foreign", seen.foreign, "has rows of traces that are not in `traces`:")
    yield from lost("gap", set(seen.missing), f"lacks rows{_at(seen.missing, table)} of")
    yield from lost("twice", set(seen.twice), f"has rows too many{_at(seen.twice, table)} of")
    yield from lost("outside", seen.outside, "has rows beyond the tokens or layers of")
    yield from lost("expert", seen.experts, "has experts that the model has not, or twice, in")


def named(ids: set[int]) -> str:
    """Traces in words, the first of many."""
    shown = ", ".join(map(str, sorted(ids)[:NAMED]))
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f"trace{'s' if len(ids) > 1 else ''} {shown}{more}"


def _at(places: dict[int, tuple[int, int]], table: Table) -> str:
    if not places:
        return ""
    layer, pos = places[min(places)]
    place = f"layer {layer}, " if table.has("layer") else ""
    return f" (first at {place}pos {pos})"
