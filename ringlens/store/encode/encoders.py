"""The table of encoders: what makes row groups of a record's arrays, by the name in a table.

A table without such a name has a row for each layer and token and columns of one number, or of one
list of numbers: `layer_arrays` encodes it.

Shape letters: T tokens, S sparse layers, N layers, E experts, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from ringlens.store.encode import choices, half_file, head_blocks, layer_arrays, tokens, vectors
from ringlens.store.encode.grid import WHOLE, LayerShare
from ringlens.store.schema.records import TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table

Batches = Iterator[pa.RecordBatch]
Traces = Sequence[tuple[int, TraceRecord]]
Write = Callable[[Path, Table, Iterable[pa.RecordBatch]], int]
"""Writes a file and returns its rows."""


def nothing(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Size of what is too little to be shared out."""
    return 0, 0


@dataclass(frozen=True)
class Encoder:
    """How a table's rows are made.

    Attributes:
        groups: The row groups of some traces, given their ids and records, the run's shape and the
            share of the layers that is wanted; None where there are no rows.
        size: Layers and values of a record, by which the work is shared out.
        cost_ns: Nanoseconds of one core a value, measured at Ring-1T's size.
        faster: What writes a file of so many values faster than ``parquet.write``, if anything.
    """

    groups: Callable[[Table, Traces, RunShape, LayerShare], Batches | None]
    size: Callable[[Table, TraceRecord], tuple[int, int]] = nothing
    cost_ns: float = 0
    faster: Callable[[int], Write | None] = lambda values: None


OfTrace = Callable[[Table, int, TraceRecord, RunShape, LayerShare], Batches | None]


def by_trace(of_trace: OfTrace) -> Callable[[Table, Traces, RunShape, LayerShare], Batches | None]:
    """Row groups of one trace after the other."""

    def groups(table: Table, traces: Traces, run: RunShape, share: LayerShare) -> Batches | None:
        found = [of_trace(table, *trace, run, share) for trace in traces]
        parts = [part for part in found if part is not None]
        return chain.from_iterable(parts) if parts else None

    return groups


# Nanoseconds: of a chosen expert, a logit, a head and token.
ENCODERS: dict[str, Encoder] = {
    "tokens": Encoder(by_trace(tokens.row_groups)),
    "routing": Encoder(by_trace(choices.row_groups), choices.size, 70),
    "router_logits": Encoder(
        by_trace(layer_arrays.of_logits),
        layer_arrays.size_of_logits,
        4,
        faster=lambda values: half_file.write if values >= half_file.WORTH else None,
    ),
    "heads": Encoder(by_trace(layer_arrays.of_heads), layer_arrays.size_of_heads, 40),
    "head_blocks": Encoder(by_trace(head_blocks.of_record), head_blocks.size, 11),
    "activations": Encoder(lambda table, traces, run, share: vectors.activations(traces)),
    "attention": Encoder(lambda table, traces, run, share: vectors.attention(traces)),
    "": Encoder(by_trace(layer_arrays.of_statistics), layer_arrays.size_of_statistics, 40),
}

USAGE_NS = 24
"""Nanoseconds to count a chosen expert into the tables of usage."""


def row_groups(
    table: Table, traces: Traces, run: RunShape, share: LayerShare = WHOLE
) -> Batches | None:
    """The row groups of some traces in one table.

    Args:
        table: The table.
        traces: Ids in the store and records, ascending by id.
        run: Sizes of the run they belong to.
        share: The layers to be encoded, of a table that `shares` divides.

    Returns:
        Row groups, made one at a time, each sorted by the table's key; None if there are no rows.
    """
    return ENCODERS[table.encoder].groups(table, traces, run, share)


SHARE_NS = 16e6
"""Work worth a file of its own: with less, one file is as fast and read faster."""


def shares(table: Table, records: Sequence[TraceRecord], workers: int) -> list[LayerShare]:
    """How ``workers`` divide a table: by layers, if there is enough of it to be worth it.

    pyarrow encodes a file on one thread, so a large table takes several files. They are few: a
    query opens each of them.
    """
    size = ENCODERS[table.encoder].size
    layers = max((size(table, record)[0] for record in records), default=0)
    count = max(1, min(workers, layers, int(cost(table, records) / SHARE_NS)))
    return [LayerShare(index, count) for index in range(count)]


def cost(table: Table, records: Sequence[TraceRecord]) -> float:
    """About how long one core encodes some records in a table, in nanoseconds."""
    return ENCODERS[table.encoder].cost_ns * values(table, records)


def usage_cost(records: Sequence[TraceRecord]) -> float:
    """About how long one core counts the usage of experts in some records, in nanoseconds."""
    return USAGE_NS * sum(choices.count(record)[1] for record in records)


def values(table: Table, records: Sequence[TraceRecord]) -> int:
    """What is counted in `Encoder.cost_ns`, for some records."""
    return sum(ENCODERS[table.encoder].size(table, record)[1] for record in records)


def writer_of(table: Table, records: Sequence[TraceRecord], usual: Write) -> Write:
    """What writes a table's files: ``usual``, or where there is very much what is faster."""
    return ENCODERS[table.encoder].faster(values(table, records)) or usual
