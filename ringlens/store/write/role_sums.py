"""Keeps the sums by step role up: rows of ``usage_roles`` follow the steps that give the roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ringlens.store.commit.files import CommitFiles
from ringlens.store.encode import expert_usage, step_roles
from ringlens.store.encode.step_roles import StepRoles
from ringlens.store.manifest.manifest import File, Manifest
from ringlens.store.read import intact
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.usage_tables import USAGE_ROLES
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder
from ringlens.store.write import recount, stream

GROUP_BYTES = 128 * 2**20
"""Bytes of the sums that are counted at a time, at most, if a trace does not need more alone."""

ROWS = 1_024
"""Rows per row group; a row of Ring-1T has 4 kB."""

CELL_BYTES = 32
"""Bytes of the sums of one expert in a cell."""


def replace_sums(
    manifest: Manifest, files: CommitFiles, steps: pa.Table, trace_ids: Sequence[int]
) -> list[str]:
    """Stage the sums of traces whose steps are replaced, in the commit that replaces them.

    Args:
        manifest: The store's manifest.
        files: Files of the commit.
        steps: New rows of ``steps`` of these traces.
        trace_ids: The traces; those without a role lose their sums.

    Returns:
        Paths of the replaced files.

    Raises:
        StoreError: A file is missing or damaged.
    """
    retire = _drop(manifest, files, trace_ids)
    roles = step_roles.of_steps(steps)
    stream.stage(files, USAGE_ROLES, _counted(manifest, files, roles), "-new")
    return retire


def roles_of(folder: Folder, paths: Iterable[str], first: int, last: int) -> StepRoles:
    """Read the roles of the tokens of traces ``first`` to ``last`` from files of ``steps``.

    Raises:
        StoreError: A file is missing or damaged.
    """
    rows = [parquet.columns(folder, path, step_roles.COLUMNS) for path in paths]
    if not rows:
        return StepRoles((None,), {}, {})
    steps = pa.concat_tables(rows)
    ids = steps["trace_id"]
    inside = pc.and_(pc.greater_equal(ids, first), pc.less_equal(ids, last))
    return step_roles.of_steps(steps.filter(inside))


def _drop(manifest: Manifest, files: CommitFiles, trace_ids: Sequence[int]) -> list[str]:
    """Stage the files that hold sums of some traces without these; return their paths."""
    gone, retire = pa.array(sorted(trace_ids), pa.int64()), []
    span = min(trace_ids), max(trace_ids)
    there = manifest.files(USAGE_ROLES.name, files.commit.run_id, *span)
    intact.require(files.folder, there)
    for number, file in enumerate(there):
        ids = parquet.columns(files.folder, file.path, ["trace_id"])["trace_id"]
        if pc.any(pc.is_in(ids, gone)).as_py():
            kept = map(
                stream.only(gone, kept=False), stream.row_groups(files.folder, file, USAGE_ROLES)
            )
            stream.stage(files, USAGE_ROLES, kept, f"-kept{number}")
            retire.append(file.path)
    return retire


def _counted(manifest: Manifest, files: CommitFiles, roles: StepRoles) -> Iterator[pa.RecordBatch]:
    """Count the routing of the traces that have roles, some traces at a time."""
    run_id, ids = files.commit.run_id, sorted(roles.spans)
    text = manifest.run_shape(run_id)
    routing = manifest.files("routing", run_id, ids[0], ids[-1]) if ids else []
    if not routing or text is None:
        return
    tokens = manifest.files("tokens", run_id, ids[0], ids[-1])
    intact.require(files.folder, [*routing, *tokens])
    shape, paths = RunShape.from_json(text), [file.path for file in tokens]
    found = recount.phases_of(files.folder, paths, ids[0], ids[-1])
    phases = {trace_id: found[trace_id] for trace_id in ids if trace_id in found}
    for group in _groups(phases, shape, len(roles.names)):
        yield from _of_group(files, routing, group, shape, roles)


def _groups(phases: recount.Phases, shape: RunShape, roles: int) -> Iterator[recount.Phases]:
    """Divide traces into groups whose sums take about `GROUP_BYTES`."""
    group: dict[int, recount.NDArray] = {}
    size = 0
    for trace_id, phase_T in phases.items():
        cells = min(len(phase_T), len(expert_usage.PHASE_NAMES) * roles) * len(shape.sparse_layers)
        own = cells * shape.experts * CELL_BYTES
        if group and size + own > GROUP_BYTES:
            yield group
            group, size = {}, 0
        group[trace_id] = phase_T
        size += own
    if group:
        yield group


def _of_group(
    files: CommitFiles,
    routing: Sequence[File],
    phases: recount.Phases,
    shape: RunShape,
    roles: StepRoles,
) -> Iterator[pa.RecordBatch]:
    first, last = min(phases), max(phases)
    paths = [f.path for f in routing if f.first_trace <= last and f.last_trace >= first]
    counted = recount.cells_of(files.folder, paths, phases, shape.experts, roles)
    if cells := [each.summed(*USAGE_ROLES.key) for each in counted]:
        rows = expert_usage.batch(
            USAGE_ROLES, files.commit.run_id, expert_usage.joined(cells), roles
        )
        yield from pa.Table.from_batches([rows]).to_batches(ROWS)
