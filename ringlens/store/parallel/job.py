"""Jobs: files that can be written apart from one another, in any thread or process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import pyarrow as pa

from ringlens.store.encode import encoders, expert_usage, portions
from ringlens.store.encode.encoders import Write
from ringlens.store.encode.grid import WHOLE, LayerShare
from ringlens.store.encode.vectors import Traces
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.schema.usage_tables import TABLES as USAGE_TABLES
from ringlens.store.storage import parquet


@dataclass(frozen=True)
class Written:
    """A complete file: its path, rows, bytes and checksum."""

    path: Path
    rows: int
    size: int
    checksum: str


class Job(Protocol):
    """Writes files from records of traces; picklable."""

    def run(self) -> list[Written]:
        """Write the files that have rows.

        Raises:
            OSError: The disk is full, read-only or broken. Partial files may remain.
        """

    def portion(self) -> Self:
        """The same job with no more of the records than it reads."""


@dataclass(frozen=True)
class TableJob:
    """Writes rows of some traces in one table, or in a share of its layers.

    Attributes:
        table: The table.
        traces: Ids in the store and records, ascending by id.
        run_shape: Sizes of the run.
        path: The file.
        share: Layers to encode.
        values: Values of all shares together, by which the way of writing is chosen.
    """

    table: Table
    traces: Traces
    run_shape: RunShape
    path: Path
    share: LayerShare = WHOLE
    values: int = 0

    def run(self) -> list[Written]:
        """Write the file."""
        groups = encoders.row_groups(self.table, self.traces, self.run_shape, self.share)
        if groups is None:
            return []
        return [written(self.path, self.table, groups, encoders.writer_of(self.table, self.values))]

    def portion(self) -> TableJob:
        """The same with the layers of the share alone, and no other table's arrays."""
        cut = encoders.ENCODERS[self.table.encoder].portion
        traces = [
            (trace_id, cut(self.table, record, self.run_shape, self.share))
            for trace_id, record in self.traces
        ]
        return replace(self, traces=traces, share=WHOLE)


@dataclass(frozen=True)
class UsageJob:
    """Counts expert usage once and writes the rows of all usage tables.

    Attributes:
        traces: Ids in the store and records, ascending by id.
        run_id: The run.
        experts: Experts of a layer.
        paths: A file for each of the usage tables.
    """

    traces: Traces
    run_id: str
    experts: int
    paths: tuple[Path, ...]

    def run(self) -> list[Written]:
        """Write the files; none if no trace has routing."""
        rows = [
            [expert_usage.batch(table, self.run_id, cells) for table in USAGE_TABLES]
            for cells in expert_usage.of_records(self.traces, self.experts)
        ]
        by_table = zip(self.paths, USAGE_TABLES, zip(*rows, strict=True), strict=False)
        return [written(path, table, batches) for path, table, batches in by_table]

    def portion(self) -> UsageJob:
        """The same with the router record and the phases alone."""
        traces = [(trace_id, portions.of_usage(record)) for trace_id, record in self.traces]
        return replace(self, traces=traces)


def written(
    path: Path, table: Table, groups: Iterable[pa.RecordBatch], write: Write = parquet.write
) -> Written:
    """Write one file of row groups, and flush it.

    Raises:
        OSError: The disk is full, read-only or broken. A partial file may remain.
    """
    rows = write(path, table, groups)
    # Read back from the page cache, which holds the file still; so the checksum is of what the
    # file has, not of what was meant to be in it.
    return Written(path, rows, path.stat().st_size, parquet.checksum(path))
