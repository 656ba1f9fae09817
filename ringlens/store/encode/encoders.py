"""Table of encoders, which make row groups from a record's arrays, by `Table.encoder`.

A table that names no encoder has a row per layer and token, and columns of numbers or of lists of
numbers; `layer_arrays` encodes it.

Shape letters: T tokens, S sparse layers, N layers, E experts, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from ringlens.store.encode import (
    choices,
    half_file,
    head_blocks,
    layer_arrays,
    portions,
    tokens,
    vectors,
)
from ringlens.store.encode.grid import WHOLE, LayerShare
from ringlens.store.encode.layer_arrays import Batches
from ringlens.store.encode.vectors import Traces
from ringlens.store.schema.records import TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet

Write = Callable[[Path, Table, Iterable[pa.RecordBatch]], int]
"""Writes a file and returns its number of rows."""


def unsized(table: Table, record: TraceRecord) -> tuple[int, int]:
    """Size of a table that is too small to divide."""
    return 0, 0


Portion = Callable[[Table, TraceRecord, RunShape, LayerShare], TraceRecord]
"""Cuts from a record what one file needs, given the table and the share of its layers."""


@dataclass(frozen=True)
class Encoder:
    """Encodes the rows of a table.

    Attributes:
        groups: Makes the row groups of some traces, given their ids and records, the run's shape
            and the share of the layers to encode; returns None if there are no rows.
        portion: Cuts from a record what ``groups`` reads of it for a share, so that encoding all
            of it gives the same rows.
        size: Number of layers and of values in a record, by which the work is divided.
        cost_ns: Nanoseconds of one core per value, measured at Ring-1T's size.
        faster_writer: Given a number of values, a function that writes such a file faster than
            pyarrow; None if there is none.
    """

    groups: Callable[[Table, Traces, RunShape, LayerShare], Batches | None]
    portion: Portion
    size: Callable[[Table, TraceRecord], tuple[int, int]] = unsized
    cost_ns: float = 0
    faster_writer: Callable[[int], Write | None] = lambda values: None


OfTrace = Callable[[Table, int, TraceRecord, RunShape, LayerShare], Batches | None]


def by_trace(of_trace: OfTrace) -> Callable[[Table, Traces, RunShape, LayerShare], Batches | None]:
    """Make an encoder of traces from one of a single trace."""

    def groups(table: Table, traces: Traces, run: RunShape, share: LayerShare) -> Batches | None:
        found = [of_trace(table, *trace, run, share) for trace in traces]
        parts = [part for part in found if part is not None]
        return chain.from_iterable(parts) if parts else None

    return groups


# The costs are nanoseconds per chosen expert, logit, and (head, token).
ENCODERS: dict[str, Encoder] = {
    "tokens": Encoder(by_trace(tokens.row_groups), portions.of_tokens),
    "routing": Encoder(by_trace(choices.row_groups), portions.of_routing, choices.size, 70),
    "router_logits": Encoder(
        by_trace(layer_arrays.of_logits),
        portions.of_logits,
        layer_arrays.size_of_logits,
        4,
        faster_writer=half_file.writer_of,
    ),
    "heads": Encoder(
        by_trace(layer_arrays.of_heads), portions.of_heads, layer_arrays.size_of_heads, 40
    ),
    "head_blocks": Encoder(
        by_trace(head_blocks.of_record), portions.of_head_blocks, head_blocks.size, 11
    ),
    "activations": Encoder(
        lambda table, traces, run, share: vectors.activations(traces), portions.of_vectors
    ),
    "attention": Encoder(
        lambda table, traces, run, share: vectors.attention(traces), portions.of_attention
    ),
    "": Encoder(
        by_trace(layer_arrays.of_statistics),
        portions.of_statistics,
        layer_arrays.size_of_statistics,
        40,
    ),
}

USAGE_NS = 24
"""Nanoseconds to count a chosen expert for the usage tables."""


def row_groups(
    table: Table, traces: Traces, run: RunShape, share: LayerShare = WHOLE
) -> Batches | None:
    """Make the row groups of some traces in one table.

    Args:
        table: The table.
        traces: Ids in the store and records, ascending by id.
        run: Sizes of the run.
        share: Layers to encode, one of the `shares` of the table.

    Returns:
        Row groups, made one at a time, each sorted by the table's key; None if there are no rows.
    """
    return ENCODERS[table.encoder].groups(table, traces, run, share)


SHARE_NS = 16e6
"""Work that is worth a separate file: below it, one file is as fast to write and faster to read."""


def shares(table: Table, records: Sequence[TraceRecord], workers: int) -> list[LayerShare]:
    """Divide a table among ``workers`` by layers, if it is large enough.

    pyarrow encodes a file on one thread, so a large table is written to several files. But only to
    a few, as a query opens each of them.
    """
    size = ENCODERS[table.encoder].size
    layers = max((size(table, record)[0] for record in records), default=0)
    count = max(1, min(workers, layers, int(cost(table, records) / SHARE_NS)))
    return [LayerShare(index, count) for index in range(count)]


def cost(table: Table, records: Sequence[TraceRecord]) -> float:
    """Estimate the nanoseconds that one core takes to encode records in a table."""
    return ENCODERS[table.encoder].cost_ns * values(table, records)


def usage_cost(records: Sequence[TraceRecord]) -> float:
    """Estimate the nanoseconds that one core takes to count the expert usage of records."""
    return USAGE_NS * sum(choices.count(record)[1] for record in records)


def values(table: Table, records: Sequence[TraceRecord]) -> int:
    """Number of values of records, as `Encoder.cost_ns` counts them."""
    return sum(ENCODERS[table.encoder].size(table, record)[1] for record in records)


def writer_of(table: Table, values: int) -> Write:
    """Function that writes a table's files, given the number of values of all of them."""
    return ENCODERS[table.encoder].faster_writer(values) or parquet.write
