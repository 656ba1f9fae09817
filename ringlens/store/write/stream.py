"""Reads files of a store by row groups and stages them again, filtered or with other ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from ringlens.store.commit.files import CommitFiles
from ringlens.store.encode.columns import completed
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

Change = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Maps rows to changed rows."""


def row_groups(folder: Folder, file: File, table: Table) -> Iterator[pa.RecordBatch]:
    """Yield the row groups of a file with today's columns; columns that it lacks are null.

    Raises:
        StoreError: The file is missing or damaged.
    """
    intact.require(folder, [file])
    with parquet.reading(folder, file.path, page_checksum_verification=True) as found:
        for number in range(found.num_row_groups):
            rows = found.read_row_group(number).combine_chunks()
            for batch in rows.to_batches() or ():
                yield completed(batch, table.arrow)


def only(trace_ids: pa.Array, *, kept: bool) -> Change:
    """Make a change that keeps the rows of some traces, or drops them.

    Rows without a trace belong to none of them.
    """

    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        theirs = pc.is_in(batch["trace_id"], trace_ids)
        return batch.filter(theirs if kept else pc.invert(theirs))

    return change


def stage(
    files: CommitFiles, table: Table, batches: Iterable[pa.RecordBatch], part: str
) -> File | None:
    """Stage row groups as one file that spans the traces in it; None if there are no rows."""
    # Filled while the rows are written, and read when they are done: one pass suffices.
    span: list[int] = []
    found = (batch for batch in batches if len(batch))
    first = next(found, None)
    if first is None:
        return None

    def watched() -> Iterator[pa.RecordBatch]:
        for batch in chain([first], found):
            if "trace_id" in table.arrow.names:
                ends = pc.min_max(pc.fill_null(batch["trace_id"], 0)).as_py()
                span[:] = [min([*span, ends["min"]]), max([*span, ends["max"]])]
            yield batch

    before = set(files.files)
    files.stage(table, watched(), span, part)
    (path,) = set(files.files) - before
    return files.files[path]
