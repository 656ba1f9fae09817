"""Scans: a function of batches of rows over a whole table, its results put together.

Shape letters: R rows, L layers, E experts, k experts a token.
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
from ringlens.store.maintain.engine import HERE, Engine
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.storage.folder import folder_at

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

R = TypeVar("R")

ROWS = 122_880
"""Rows of a batch."""

SHARE = 400 * 2**20
"""Bytes of the files that make a share, about: one compacted file, or many small ones."""


def scan_batches(
    store: Store,
    table: str,
    columns: Sequence[str],
    function: Callable[[pa.RecordBatch], R],
    combine: Callable[[R, R], R],
    *,
    engine: Engine = HERE,
    run_id: str | None = None,
) -> R | None:
    """Apply a function to all rows of a table, a batch at a time, and combine the results.

    Only the given columns are read. The files are those of the newest commit.

    Args:
        store: The store.
        table: Name of the table.
        columns: Columns to read, in order.
        function: From a batch of up to `ROWS` rows to a result. It is pickled.
        combine: Makes one result of two, whichever come first: the order is not known.
        engine: Where it runs.
        run_id: Only this run's rows.

    Returns:
        The one result; None if the table has no rows.

    Raises:
        StoreError: A file is missing or damaged.
    """
    files = [file for file in store.files(table) if run_id in (None, file.run_id)]
    task = _Task(store.address, store.verify, tuple(columns), function, combine)
    found = engine.map(task, list(_shares(files)))
    return _combined((result for result in found if result is not None), combine)


def expert_counts(store: Store, *, engine: Engine = HERE, run_id: str | None = None) -> NDArray:
    """How many tokens chose each expert, int64 [L, E]; rows of layers that do not route are 0.

    The same as ``select layer, expert, count(*) from router_choices group by all``.
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
    """What is done with a share on whichever machine it lands."""

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
                    f"`ringlens check` finds what is wrong"
                ) from error


def _shares(files: Sequence[File]) -> Iterator[list[File]]:
    """Files, as many together as `SHARE` allows."""
    share: list[File] = []
    size = 0
    for file in files:
        if share and size + file.bytes > SHARE:
            yield share
            share, size = [], 0
        share.append(file)
        size += file.bytes
    if share:
        yield share


def _combined(results: Iterator[R], combine: Callable[[R, R], R]) -> R | None:
    first = next(results, None)
    return None if first is None else reduce(combine, results, first)


def _count(batch: pa.RecordBatch, layers: int, experts: int) -> NDArray:
    """How often each expert stands in a batch, int64 [L, E]."""
    layer_R = batch["layer"].to_numpy().astype(np.int64)
    ids_Rk = batch["expert_ids"].flatten().to_numpy().reshape(len(batch), -1)
    cell_Rk = layer_R[:, None] * experts + ids_Rk
    counts = np.bincount(cell_Rk.ravel(), minlength=layers * experts)
    return counts.reshape(layers, experts)
