"""Scans: applies a function to all rows of a table in batches and combines the results.

Shape letters: R rows, L layers, E experts, k experts per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.storage.folder import folder_at

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

R = TypeVar("R")

ROWS = 122_880
"""Rows per batch."""

SHARD_BYTES = 400 * 2**20
"""Approximate bytes of files in a shard: one compacted file, or many small ones."""


def scan_batches(
    store: Store,
    table: str,
    columns: Sequence[str],
    function: Callable[[pa.RecordBatch], R],
    combine: Callable[[R, R], R],
    *,
    engine: Engine = LOCAL,
    run_id: str | None = None,
) -> R | None:
    """Apply a function to all rows of a table in batches and combine the results.

    Only the given columns are read, from the files of the newest commit.

    Args:
        store: The store.
        table: Name of the table.
        columns: Columns to read, in order.
        function: Maps a batch of up to `ROWS` rows to a result; must be picklable for a cluster.
        combine: Combines two results; called in any order.
        engine: Runs the scan.
        run_id: Restricts the scan to one run.

    Returns:
        The combined result; None if the table has no rows.

    Raises:
        StoreError: A file is missing or damaged.
    """
    files = [file for file in store.files(table) if run_id in (None, file.run_id)]
    task = _Task(store.address, store.verify, tuple(columns), function, combine)
    found = engine.map(task, list(_shards(files)))
    return _combined((result for result in found if result is not None), combine)


def expert_counts(store: Store, *, engine: Engine = LOCAL, run_id: str | None = None) -> NDArray:
    """Count the tokens that chose each expert, int64 [L, E]; 0 on layers without a router.

    Equals ``select layer, expert, count(*) from router_choices group by all``.
    """
    rows = store.sql(
        "select max(layers), max(experts) from runs where ? is null or run_id = ?",
        [run_id, run_id],
    ).fetchall()
    layers, experts = rows[0]
    if layers is None:
        return np.zeros((0, 0), np.int64)
    count = partial(_count, layers=layers, experts=experts)
    columns = ("layer", "expert_ids")
    counts_LE = scan_batches(store, "routing", columns, count, np.add, engine=engine, run_id=run_id)
    return np.zeros((layers, experts), np.int64) if counts_LE is None else counts_LE


@dataclass(frozen=True)
class _Task(Generic[R]):
    """Scans one shard, on any machine."""

    address: str
    verify: bool | None
    columns: tuple[str, ...]
    function: Callable[[pa.RecordBatch], R]
    combine: Callable[[R, R], R]

    def __call__(self, files: Sequence[File]) -> R | None:
        return _combined(map(self.function, self._batches(files)), self.combine)

    def _batches(self, files: Sequence[File]) -> Iterator[pa.RecordBatch]:
        folder = folder_at(self.address)
        intact.Guard(folder, self.verify).verify(files)
        for file in files:
            try:
                with pq.ParquetFile(folder.source(file.path)) as opened:
                    for batch in opened.iter_batches(ROWS, columns=list(self.columns)):
                        yield batch.select(self.columns)
            except (OSError, pa.ArrowException) as error:
                raise StoreError(
                    f"{folder}/{file.path} is missing or damaged ({str(error).splitlines()[0]}): "
                    f"run `ringlens check` to find out what is wrong"
                ) from error


def _shards(files: Sequence[File]) -> Iterator[list[File]]:
    """Group files into shards of about `SHARD_BYTES`."""
    shard: list[File] = []
    size = 0
    for file in files:
        if shard and size + file.bytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(file)
        size += file.bytes
    if shard:
        yield shard


def _combined(results: Iterator[R], combine: Callable[[R, R], R]) -> R | None:
    first = next(results, None)
    return None if first is None else reduce(combine, results, first)


def _count(batch: pa.RecordBatch, layers: int, experts: int) -> NDArray:
    """Count how often each expert was chosen in a batch, int64 [L, E]."""
    layer_R = batch["layer"].to_numpy().astype(np.int64)
    ids_Rk = batch["expert_ids"].flatten().to_numpy().reshape(len(batch), -1)
    cell_Rk = layer_R[:, None] * experts + ids_Rk
    counts = np.bincount(cell_Rk.ravel(), minlength=layers * experts)
    return counts.reshape(layers, experts)
