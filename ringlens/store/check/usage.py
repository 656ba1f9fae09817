"""Compares rollups with the routing that they sum up, a group of traces at a time.

Shape letters: C cells, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ringlens.store.check.finding import COUNT, WRONG, Finding
from ringlens.store.check.rows import RunTraces, named
from ringlens.store.encode.columns import matrix
from ringlens.store.encode.expert_usage import PHASE_NAMES, Cells, joined
from ringlens.store.encode.step_roles import StepRoles
from ringlens.store.maintain.rollup import GROUP_ROWS
from ringlens.store.manifest.entries import File, sharing_traces
from ringlens.store.schema import usage_tables
from ringlens.store.schema.promise import recorded_layers
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder
from ringlens.store.write import recount, role_sums

EXACT = ("trace_id", "layer", "block", "phase", "role", "tokens", "reasons", "n", "bias_flips")
"""Columns that must be equal; weights may differ, as they are rounded to float32."""


def check_usage(
    folder: Folder, files: Mapping[str, Sequence[File]], traces: RunTraces, known: set[int]
) -> Iterator[Finding]:
    """Compare the rollup tables of a run with its routing, all of which must be readable.

    A table without rows is skipped: format 1 had none, a trace without roles has none by role, and
    readers then count the routing.

    Args:
        folder: The store's folder.
        files: Files of the run by table.
        traces: The run's traces.
        known: Traces that already have a finding, which are skipped.
    """
    run_id = traces.run["run_id"]
    tables = [table for table in usage_tables.ALL if files.get(table.name)]
    wrong: dict[str, set[int]] = {table.name: set() for table in tables}
    for group in sharing_traces(files.get("routing", ())) if tables else ():
        for ids in _some_at_a_time(group, traces):
            tokens = [f.path for f in _holding(files.get("tokens", ()), ids)]
            phases = recount.phases_of(folder, tokens, int(ids[0]), int(ids[-1]))
            steps = [file.path for file in _holding(files.get("steps", ()), ids)]
            roles = role_sums.roles_of(folder, steps, int(ids[0]), int(ids[-1]))
            paths = [file.path for file in _holding(group, ids)]
            counted: dict[str, list[Cells]] = {table.name: [] for table in tables}
            for cells in recount.cells_of(folder, paths, phases, traces.run["experts"], roles):
                for table in tables:
                    counted[table.name] += recount.sums_of(cells, table, roles)
            for table in tables:
                held = _holding(files[table.name], ids)
                stored = _stored(folder, held, table, ids, traces.run, roles)
                wrong[table.name] |= _different(counted[table.name], stored, table)
    for name, found in wrong.items():
        if off := found - known:
            sentence = f"{name} is not the sum of the routing for {named(off)} of run {run_id}"
            yield Finding(WRONG, "rollup", name, sentence, COUNT, run_id, tuple(sorted(off)))


def _holding(files: Sequence[File], ids: NDArray) -> list[File]:
    return [f for f in files if f.first_trace <= ids[-1] and f.last_trace >= ids[0]]


def _some_at_a_time(group: Sequence[File], traces: RunTraces) -> Iterator[NDArray[np.int64]]:
    """Yield the traces of some files in groups of about GROUP_ROWS rows of routing."""
    first, last = group[0].first_trace, max(file.last_trace for file in group)
    inside = (traces.ids >= first) & (traces.ids <= last)
    ids = traces.ids[inside]
    rows = np.cumsum(traces.tokens[inside] * len(recorded_layers(traces.run, "routing")))
    if len(ids):
        yield from np.split(ids, np.flatnonzero(np.diff(rows // GROUP_ROWS)) + 1)


def _stored(
    folder: Folder,
    files: Sequence[File],
    table: Table,
    ids: NDArray,
    run: dict,
    roles: StepRoles,
) -> Cells | None:
    """Read the sums that a rollup table holds for some traces."""
    wanted = pa.array(ids, pa.int64())
    parts = []
    for file in files:
        rows = parquet.read(folder, file.path, table)
        parts.append(rows.filter(pc.is_in(rows["trace_id"], wanted)))
    rows = pa.concat_tables(parts) if parts else table.arrow.empty_table()
    if not len(rows):
        return None
    zeros, none_CE = np.zeros(len(rows), np.int64), np.zeros((len(rows), run["experts"]), np.int64)
    reasons = rows["weight"].is_valid().to_numpy()
    known = {name: _sums(rows[name], none_CE) for name in ("n", "weight", "bias_flips")}
    phase = (
        pc.index_in(rows["phase"], pa.array(PHASE_NAMES)).to_numpy()
        if "phase" in table.key
        else zeros
    )
    role = _roles(rows, roles) if "role" in table.key else zeros
    return Cells(
        trace_id=rows["trace_id"].to_numpy(),
        layer=rows["layer"].to_numpy().astype(np.int64),
        block=rows["block"].to_numpy().astype(np.int64) if "block" in table.key else zeros,
        phase=phase.astype(np.int64),
        role=role,
        tokens=rows["tokens"].to_numpy().astype(np.int64),
        reasons=reasons,
        **known,
        group_flips=none_CE,
    ).summed(*table.key)


def _roles(rows: pa.Table, roles: StepRoles) -> NDArray[np.int64]:
    """Index of each row's role, -1 for one that its trace does not have now."""
    known = pc.index_in(rows["role"], pa.array(roles.names, pa.string()))
    role_C = pc.fill_null(known, -1).to_numpy().astype(np.int64)
    digests = [roles.digests.get(trace_id) for trace_id in rows["trace_id"].to_pylist()]
    same_C = pc.equal(rows["steps_digest"], pa.array(digests, pa.uint64())).fill_null(False)
    return np.where(same_C.to_numpy(), role_C, -1)


def _sums(column: pa.ChunkedArray, none_CE: NDArray) -> NDArray:
    """Convert lists by expert to [C, E] in 64 bits, with 0 for null."""
    known_C = column.is_valid().to_numpy()
    found = matrix(column.drop_null())
    wide = np.zeros(none_CE.shape, np.float64 if found.dtype.kind == "f" else np.int64)
    if len(found):
        wide[known_C] = found
    return wide


def _different(counted: Sequence[Cells], stored: Cells | None, table: Table) -> set[int]:
    """Traces whose counted and stored sums differ."""
    if not counted:
        return set() if stored is None else set(stored.trace_id.tolist())
    wanted = joined(counted).summed(*table.key)
    if stored is None or len(stored) != len(wanted):
        known = set() if stored is None else set(stored.trace_id.tolist())
        ids, counts = np.unique(wanted.trace_id, return_counts=True)
        if stored is None:
            return known | set(ids.tolist())
        rows = dict(zip(*np.unique(stored.trace_id, return_counts=True), strict=True))
        off = {int(i) for i, n in zip(ids, counts, strict=True) if rows.get(i) != n}
        return off | (known - set(ids.tolist()))
    wrong_C = ~np.isclose(wanted.weight, stored.weight, rtol=1e-4, atol=1e-4, equal_nan=True).all(
        axis=1
    )
    for name in EXACT:
        same = getattr(wanted, name) == getattr(stored, name)
        wrong_C |= ~(same.all(axis=1) if same.ndim == 2 else same)
    return set(wanted.trace_id[wrong_C].tolist())
