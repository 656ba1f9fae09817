"""Rollups counted from the routing that is stored: for traces told anew, and stores without them.

One pass over files, a batch of rows at a time.

Shape letters: R rows, k experts a token, C cells, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ringlens.store.encode.columns import matrix, ragged
from ringlens.store.encode.expert_usage import KEYS, NAMES, PLACE, SUMS, Cells
from ringlens.store.schema.usage_tables import USAGE_BLOCK
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

ROWS = 122_880
"""Rows counted at a time: 30 MB with their sums."""

COLUMNS = ["trace_id", "layer", "pos", "expert_ids", "weights", "bias_flips", "group_flips"]

Phases = Mapping[int, NDArray[np.uint8]]
"""Of each trace the phase of each token, as its place in `NAMES`."""


def cells_of(folder: Folder, paths: Iterable[str], phases: Phases, experts: int) -> Iterator[Cells]:
    """Count the routing in some files.

    Args:
        folder: Where the store's files live.
        paths: Files of ``routing``.
        phases: The traces that are counted, others are passed over; of each trace the phases of
            the positions from 0 that are counted.
        experts: E.

    Returns:
        Cells of a batch of rows at a time: several may be of one key.

    Raises:
        StoreError: A file is missing or damaged.
    """
    wanted = pa.array(sorted(phases), pa.int64())
    for path in paths if phases else ():
        for batch in _batches(folder, path, COLUMNS, wanted):
            rows = pa.Table.from_batches([batch.filter(pc.is_in(batch["trace_id"], wanted))])
            rows = rows.filter(pa.array(_is_told(rows, phases)))
            if len(rows):
                yield _count(rows, phases, experts)


def phases_of(folder: Folder, paths: Iterable[str], first: int, last: int) -> Phases:
    """The phases of all tokens of the traces ``first`` to ``last``, from files of ``tokens``.

    Raises:
        StoreError: A file is missing or damaged.
    """
    columns, span = ["trace_id", "pos", "phase"], pa.array([first, last], pa.int64())
    batches = []
    for path in paths:
        for batch in _batches(folder, path, columns, span):
            ids = batch["trace_id"]
            inside = pc.and_(pc.greater_equal(ids, first), pc.less_equal(ids, last))
            batches.append(batch.filter(inside))
    if not any(len(batch) for batch in batches):
        return {}
    rows = pa.Table.from_batches(batches)
    trace_R, pos_R = rows["trace_id"].to_numpy(), rows["pos"].to_numpy()
    place_R = pc.index_in(rows["phase"], pa.array(NAMES)).to_numpy().astype(np.uint8)
    order = np.lexsort((pos_R, trace_R))
    ids, begin = np.unique(trace_R[order], return_index=True)
    return dict(zip(ids.tolist(), np.split(place_R[order], begin[1:]), strict=True))


def places(phases: Iterable[str]) -> NDArray[np.uint8]:
    """Phases as places in `NAMES`."""
    return np.array([PLACE[phase] for phase in phases], np.uint8)


def _batches(
    folder: Folder, path: str, columns: list[str], wanted: pa.Array
) -> Iterator[pa.RecordBatch]:
    """Rows of the row groups that can hold one of some traces, which are given in order."""
    with parquet.reading(folder, path) as file:
        groups = [g for g in range(file.num_row_groups) if _may_hold(file, g, wanted)]
        yield from file.iter_batches(ROWS, groups, columns)


def _may_hold(file: pq.ParquetFile, group: int, wanted: pa.Array) -> bool:
    """Whether a row group's statistics allow for a trace between the first and the last wanted."""
    index = file.schema_arrow.get_field_index("trace_id")
    found = file.metadata.row_group(group).column(index).statistics
    if found is None or not found.has_min_max:
        return True
    return bool(wanted[0].as_py() <= found.max and wanted[-1].as_py() >= found.min)


def _is_told(rows: pa.Table, phases: Phases) -> NDArray[np.bool_]:
    """Which rows stand at a position whose phase is given [R]."""
    trace_R, pos_R = rows["trace_id"].to_numpy(), rows["pos"].to_numpy()
    ids, place_R = np.unique(trace_R, return_inverse=True)
    known = np.array([len(phases[int(i)]) for i in ids], np.int64)
    return pos_R < known[place_R] if len(rows) else np.zeros(0, bool)


def _count(rows: pa.Table, phases: Phases, experts: int) -> Cells:
    keys_4C, cell_R, tokens_C = _cells(rows, phases)
    size = len(tokens_C) * experts
    cell_Rk = cell_R[:, None] * experts + matrix(rows["expert_ids"])
    sums: dict[str, NDArray] = {name: np.zeros(size, np.int64) for name in SUMS}
    sums["n"] = np.bincount(cell_Rk.ravel(), minlength=size)
    reasons = not rows["weights"].null_count
    if reasons:
        weights = matrix(rows["weights"]).ravel()
        sums["weight"] = np.bincount(cell_Rk.ravel(), weights, size)
        for name in ("bias_flips", "group_flips"):
            flipped_F, offsets = ragged(rows[name])
            cell_F = np.repeat(cell_R, np.diff(offsets)) * experts + flipped_F
            sums[name] = np.bincount(cell_F, minlength=size)
    return Cells(
        **dict(zip(KEYS, keys_4C, strict=True)),
        tokens=tokens_C,
        reasons=np.full(len(tokens_C), reasons),
        **{name: array.reshape(-1, experts) for name, array in sums.items()},
    )


def _cells(rows: pa.Table, phases: Phases) -> tuple[list[NDArray], NDArray, NDArray]:
    """Keys of the cells that rows belong to, each row's cell [R], and rows of each cell [C]."""
    trace_R = rows["trace_id"].to_numpy()
    layer_R = rows["layer"].to_numpy().astype(np.int64)
    pos_R = rows["pos"].to_numpy().astype(np.int64)
    ids, place_R = np.unique(trace_R, return_inverse=True)
    told = [phases[int(i)] for i in ids]
    first = np.cumsum([0, *map(len, told)])[:-1]
    phase_R = np.concatenate(told)[first[place_R] + pos_R].astype(np.int64)
    keys_4R = np.stack([trace_R, layer_R, pos_R // USAGE_BLOCK, phase_R])
    # Rows come in runs of one cell: the few runs are sorted, not the rows.
    new_R = np.ones(len(trace_R), bool)
    new_R[1:] = (keys_4R[:, 1:] != keys_4R[:, :-1]).any(axis=0)
    keys_4C, cell_run = np.unique(keys_4R[:, new_R], axis=1, return_inverse=True)
    cell_R = cell_run.ravel()[np.cumsum(new_R) - 1]
    return list(keys_4C), cell_R, np.bincount(cell_R, minlength=keys_4C.shape[1])
