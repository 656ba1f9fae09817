"""Counts how often each expert was chosen, once, while the routing is written.

Rows of routing with the same trace, layer, usage block, phase and step role form a cell. All rollup
tables are sums of cells.

Shape letters: T tokens, S sparse layers, k experts per token, E experts, C cells, R rows, F flips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ringlens.store.encode.columns import fixed_lists, matrix
from ringlens.store.encode.step_roles import StepRoles
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.records import ChoiceArrays, RoutingArrays, TraceRecord
from ringlens.store.schema.table import Table
from ringlens.store.schema.usage_tables import USAGE_BLOCK

KEYS = ("trace_id", "layer", "block", "phase", "role")
SUMS = ("n", "weight", "bias_flips", "group_flips")

PHASE_NAMES = tuple(sorted(PHASES))
PHASE_INDEX = {phase: i for i, phase in enumerate(PHASE_NAMES)}
"""Phases as numbers, in alphabetical order, as rows of ``usage_traces`` are sorted by name."""


@dataclass(frozen=True)
class Cells:
    """Sums over the tokens of each cell.

    Attributes:
        trace_id: [C].
        layer: [C].
        block: [C] ``pos // USAGE_BLOCK``; 0 if blocks were summed up.
        phase: [C] index into `PHASE_NAMES`; 0 if phases were summed up.
        role: [C] index into names of step roles; 0 if roles were summed up.
        tokens: [C] number of tokens in the cell.
        reasons: [C] whether columns other than ``n`` are known; False if only the choice was
            recorded.
        n: [C, E] number of times chosen.
        weight: [C, E] sums of routing weights, float64.
        bias_flips: [C, E] number of times chosen only because of the bias.
        group_flips: [C, E] number of times lost only to the group limit.
    """

    trace_id: NDArray[np.int64]
    layer: NDArray[np.int64]
    block: NDArray[np.int64]
    phase: NDArray[np.int64]
    role: NDArray[np.int64]
    tokens: NDArray[np.int64]
    reasons: NDArray[np.bool_]
    n: NDArray[np.int64]
    weight: NDArray[np.float64]
    bias_flips: NDArray[np.int64]
    group_flips: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> Cells:
        return Cells(*(getattr(self, field.name)[part] for field in fields(Cells)))

    def summed(self, *keys: str) -> Cells:
        """Sum up cells with equal ``keys``, sorted by these; other keys become 0."""
        order = np.lexsort([getattr(self, key) for key in reversed(keys)])  # last key sorts first
        sorted_by = [getattr(self, key)[order] for key in keys]
        new = np.ones(len(self), bool)
        new[1:] = np.any([column[1:] != column[:-1] for column in sorted_by], axis=0)
        first = np.flatnonzero(new)
        values: dict[str, NDArray] = {key: np.zeros(len(first), np.int64) for key in KEYS}
        values |= {key: column[first] for key, column in zip(keys, sorted_by, strict=True)}
        for name in ("tokens", *SUMS):
            array = getattr(self, name)[order]
            values[name] = np.add.reduceat(array, first) if len(first) else array
        # A sum knows its reasons only if all its parts do.
        values["reasons"] = np.logical_and.reduceat(self.reasons[order], first)
        return Cells(**values)


def joined(parts: Sequence[Cells]) -> Cells:
    """Concatenate cells."""
    return Cells(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Cells)))


def of_records(traces: Sequence[tuple[int, TraceRecord]], experts: int) -> Iterator[Cells]:
    """Yield the cells of each trace that has routing, by (layer, block, phase)."""
    for trace_id, record in traces:
        routing = record.routing
        if routing is None or not routing.expert_ids.size:
            continue
        first = routing.first if isinstance(routing, ChoiceArrays) else record.start
        here = slice(first - record.start, first - record.start + routing.expert_ids.shape[1])
        phase_T = np.array([PHASE_INDEX[phase] for phase in record.tokens.phase[here]])
        yield of_routing(trace_id, routing, first, phase_T, experts)


def of_routing(
    trace_id: int,
    routing: RoutingArrays | ChoiceArrays,
    first_pos: int,
    phase_T: NDArray,
    experts: int,
) -> Cells:
    """Count the routing of a trace from position ``first_pos``, by (layer, block, phase)."""
    block_T = np.arange(first_pos, first_pos + len(phase_T)) // USAGE_BLOCK
    cell_C, cell_T, tokens_C = np.unique(
        block_T * len(PHASE_NAMES) + phase_T, return_inverse=True, return_counts=True
    )
    layers, size = len(routing.layers), len(cell_C) * experts
    sums: dict[str, NDArray] = {name: np.zeros((layers, size), np.int64) for name in SUMS}
    sums["weight"] = np.zeros((layers, size))
    offset_T = cell_T[:, None] * experts
    for s in range(layers):  # one layer at a time, whose sums fit into the processor's cache
        chosen_Tk = offset_T + routing.expert_ids[s]
        sums["n"][s] = np.bincount(chosen_Tk.ravel(), minlength=size)
        if isinstance(routing, RoutingArrays):
            best_Tk = offset_T + routing.unlimited_ids[s]
            sums["weight"][s] = np.bincount(chosen_Tk.ravel(), routing.weights[s].ravel(), size)
            sums["bias_flips"][s] = np.bincount(chosen_Tk[routing.bias_flips[s]], minlength=size)
            sums["group_flips"][s] = np.bincount(best_Tk[routing.group_flips[s]], minlength=size)
    cells = layers * len(cell_C)
    return Cells(
        trace_id=np.full(cells, trace_id),
        layer=np.repeat(np.asarray(routing.layers, np.int64), len(cell_C)),
        block=np.tile(cell_C // len(PHASE_NAMES), layers),
        phase=np.tile(cell_C % len(PHASE_NAMES), layers),
        role=np.zeros(cells, np.int64),
        tokens=np.tile(tokens_C, layers),
        reasons=np.full(cells, isinstance(routing, RoutingArrays)),
        **{name: array.reshape(cells, experts) for name, array in sums.items()},
    )


def batch(
    table: Table, run_id: str, cells: Cells, roles: StepRoles | None = None
) -> pa.RecordBatch:
    """Convert cells to rows of a rollup table, sorted by its key.

    Args:
        table: The table.
        run_id: The run.
        cells: The cells.
        roles: Roles of the tokens, for a table by role.
    """
    found = cells.summed(*table.key)
    columns = []
    for field in table.arrow:
        if field.name == "run_id":
            columns.append(pa.repeat(run_id, len(found)))
        elif field.name == "phase":
            columns.append(pa.array(np.array(PHASE_NAMES)[found.phase], pa.string()))
        elif field.name == "role" and roles is not None:
            columns.append(pa.array(np.array(roles.names, object)[found.role], pa.string()))
        elif field.name == "steps_digest" and roles is not None:
            digests = [roles.digests[trace_id] for trace_id in found.trace_id.tolist()]
            columns.append(pa.array(digests, field.type))
        elif pa.types.is_list(field.type):
            numbers = getattr(found, field.name).astype(field.type.value_type.to_pandas_dtype())
            lists = fixed_lists(numbers, field.type)
            columns.append(_known(lists, found.reasons) if field.nullable else lists)
        else:
            numbers = getattr(found, field.name).astype(field.type.to_pandas_dtype())
            columns.append(pa.array(numbers))
    return pa.RecordBatch.from_arrays(columns, schema=table.arrow)


def of_rows(table: Table, rows: pa.Table) -> Cells:
    """Convert rows of a rollup table to cells; columns that the table lacks become 0."""
    n_CE = matrix(rows["n"]).astype(np.int64)
    names = rows.column_names
    known_C = rows["weight"].is_valid().to_numpy()
    values: dict[str, NDArray] = {key: np.zeros(len(rows), np.int64) for key in KEYS}
    for name in set(table.key) - {"phase"} | {"tokens"}:
        values[name] = rows[name].to_numpy().astype(np.int64)
    if "phase" in names:
        values["phase"] = (
            pc.index_in(rows["phase"], pa.array(PHASE_NAMES)).to_numpy().astype(np.int64)
        )
    for name in SUMS[1:]:
        values[name] = np.zeros(n_CE.shape, np.float64 if name == "weight" else np.int64)
        if name in names:
            values[name][known_C] = matrix(rows[name].drop_null()).reshape(-1, n_CE.shape[1])
    return Cells(**values, n=n_CE, reasons=known_C)


def summed(
    table: Table, run_id: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Merge rows with the same key in sorted batches of a rollup table."""
    # The last cell waits for the next batch, which may continue it.
    last: Cells | None = None
    for rows in batches:
        cells = of_rows(table, pa.Table.from_batches([rows]))
        found = (joined([last, cells]) if last is not None else cells).summed(*table.key)
        if len(found) > 1:
            yield batch(table, run_id, found[: len(found) - 1])
        last = found[len(found) - 1 :]
    if last is not None:
        yield batch(table, run_id, last)


def _known(lists_C: pa.Array, known_C: NDArray[np.bool_]) -> pa.Array:
    """Replace unknown lists with null."""
    if known_C.all():
        return lists_C
    return lists_C.take(pa.array(np.arange(len(known_C)), mask=~known_C))
