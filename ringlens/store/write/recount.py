"""Counts rollups from stored routing, for rewritten traces and stores without rollups.

It makes one pass over the files, in batches of rows.

Shape letters: R rows, k experts per token, C cells, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ringlens.store.encode.columns import matrix, ragged
from ringlens.store.encode.expert_usage import KEYS, PHASE_INDEX, PHASE_NAMES, SUMS, Cells
from ringlens.store.encode.step_roles import StepRoles
from ringlens.store.schema.table import Table
from ringlens.store.schema.usage_tables import USAGE_BLOCK
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder

ROWS = 122_880
"""Rows counted at a time; with their sums they take 30 MB."""

COLUMNS = ["trace_id", "layer", "pos", "expert_ids", "weights", "bias_flips", "group_flips"]

Phases = Mapping[int, NDArray[np.uint8]]
"""Phases of the tokens of each trace, as indices into `PHASE_NAMES`."""


def cells_of(
    folder: Folder,
    paths: Iterable[str],
    phases: Phases,
    experts: int,
    roles: StepRoles | None = None,
) -> Iterator[Cells]:
    """Count the routing in some files.

    Args:
        folder: The store's folder.
        paths: Files of ``routing``.
        phases: Traces to count, each with the phases of the positions to count, from 0.
        experts: Number of experts E.
        roles: Roles by which cells are told apart as well; those of traces that it does not know
            are null.

    Returns:
        Cells of one batch of rows at a time; several cells may have the same key.

    Raises:
        StoreError: A file is missing or damaged.
    """
    wanted = pa.array(sorted(phases), pa.int64())
    for path in paths if phases else ():
        for batch in _batches(folder, path, COLUMNS, wanted):
            rows = pa.Table.from_batches([batch.filter(pc.is_in(batch["trace_id"], wanted))])
            rows = rows.filter(pa.array(_have_phase(rows, phases)))
            if len(rows):
                yield _count(rows, phases, experts, roles)


def sums_of(cells: Cells, table: Table, roles: StepRoles) -> list[Cells]:
    """Sum up cells by the key of a rollup table; nothing if their traces have no rows there."""
    if not table.has("role"):
        return [cells.summed(*table.key)]
    own_C = np.isin(cells.trace_id, list(roles.spans))
    return [cells[own_C].summed(*table.key)] if own_C.any() else []


def phases_of(folder: Folder, paths: Iterable[str], first: int, last: int) -> Phases:
    """Read the phases of all tokens of the traces ``first`` to ``last``.

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
    phase_R = pc.index_in(rows["phase"], pa.array(PHASE_NAMES)).to_numpy().astype(np.uint8)
    order = np.lexsort((pos_R, trace_R))
    ids, begin = np.unique(trace_R[order], return_index=True)
    return dict(zip(ids.tolist(), np.split(phase_R[order], begin[1:]), strict=True))


def phase_indices(phases: Iterable[str]) -> NDArray[np.uint8]:
    """Convert phases to indices into `PHASE_NAMES`."""
    return np.array([PHASE_INDEX[phase] for phase in phases], np.uint8)


def _batches(
    folder: Folder, path: str, columns: list[str], wanted: pa.Array
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of row groups that may hold one of some sorted traces."""
    with parquet.reading(folder, path) as file:
        # A file may hold thousands of traces; statistics skip the row groups of others.
        bounds = parquet.bounds(file.metadata, "trace_id")
        may_hold = (bounds[:, 0] <= wanted[-1].as_py()) & (bounds[:, 1] >= wanted[0].as_py())
        groups = np.flatnonzero(may_hold).tolist()
        yield from file.iter_batches(ROWS, groups, columns)


def _have_phase(rows: pa.Table, phases: Phases) -> NDArray[np.bool_]:
    """Flag the rows [R] at positions whose phase is given."""
    trace_R, pos_R = rows["trace_id"].to_numpy(), rows["pos"].to_numpy()
    ids, index_R = np.unique(trace_R, return_inverse=True)
    known = np.array([len(phases[int(i)]) for i in ids], np.int64)
    return pos_R < known[index_R] if len(rows) else np.zeros(0, bool)


def _count(rows: pa.Table, phases: Phases, experts: int, roles: StepRoles | None) -> Cells:
    keys_5C, cell_R, tokens_C = _cells(rows, phases, roles)
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
        **dict(zip(KEYS, keys_5C, strict=True)),
        tokens=tokens_C,
        reasons=np.full(len(tokens_C), reasons),
        **{name: array.reshape(-1, experts) for name, array in sums.items()},
    )


def _cells(
    rows: pa.Table, phases: Phases, roles: StepRoles | None
) -> tuple[list[NDArray], NDArray, NDArray]:
    """Keys of the cells that rows belong to, each row's cell [R], and rows of each cell [C]."""
    trace_R = rows["trace_id"].to_numpy()
    layer_R = rows["layer"].to_numpy().astype(np.int64)
    pos_R = rows["pos"].to_numpy().astype(np.int64)
    ids, index_R = np.unique(trace_R, return_inverse=True)
    # One lookup for all rows: the phases of all traces end to end, and where each trace starts.
    by_trace = [phases[int(i)] for i in ids]
    first = np.cumsum([0, *map(len, by_trace)])[:-1]
    token_R = first[index_R] + pos_R
    phase_R = np.concatenate(by_trace)[token_R].astype(np.int64)
    role_R = np.zeros(len(token_R), np.int64)
    if roles is not None:
        role_R[:] = np.concatenate([roles.of(int(i), len(phases[int(i)])) for i in ids])[token_R]
    keys_5R = np.stack([trace_R, layer_R, pos_R // USAGE_BLOCK, phase_R, role_R])
    # Rows of one cell are mostly adjacent, so it is enough to sort the few runs of such rows.
    new_R = np.ones(len(trace_R), bool)
    new_R[1:] = (keys_5R[:, 1:] != keys_5R[:, :-1]).any(axis=0)
    keys_5C, cell_run = np.unique(keys_5R[:, new_R], axis=1, return_inverse=True)
    cell_R = cell_run.ravel()[np.cumsum(new_R) - 1]
    return list(keys_5C), cell_R, np.bincount(cell_R, minlength=keys_5C.shape[1])
