"""Replaces rows that analyses write: checks the new rows and drops old rows of the same scopes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ringlens.errors import NotInStoreError, ObservationError
from ringlens.store.commit.files import CommitFiles
from ringlens.store.encode import step_roles
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.read import intact
from ringlens.store.schema import analysis_tables, captured
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table
from ringlens.store.storage import parquet
from ringlens.store.storage.folder import Folder
from ringlens.store.write import role_sums
from ringlens.store.write.supersede import batches, sort

GROUP_ROWS = 122_880

Rows: TypeAlias = "pa.Table | Sequence[Mapping[str, object]]"


@dataclass(frozen=True)
class Replacement:
    """Checked rows of one table, and the scopes whose stored rows they replace.

    Attributes:
        table: The table, one that analyses write.
        rows: The rows, with all columns of the table in order.
        scopes: Scopes (columns `Table.scope`) whose stored rows are dropped: those of the new
            rows, and those that are only cleared.
    """

    table: Table
    rows: pa.Table
    scopes: pa.Table

    @classmethod
    def of(cls, name: str, rows: Rows, clear: Rows, run_id: str, shape: RunShape) -> Replacement:
        """Check rows, from which nullable columns and ``run_id`` can be left out.

        Raises:
            NotInStoreError: Analyses write no such table.
            ObservationError: A column is unknown, missing, of the wrong type, or null although it
                is not nullable; or a row is duplicate, or about a layer or head that the run does
                not have.
        """
        known = {table.name: table for table in analysis_tables.TABLES}
        if name not in known:
            raise NotInStoreError(f"analyses write the tables {', '.join(known)}, not {name!r}")
        table = known[name]
        columns = tuple(column for column in table.columns if column.name in table.scope)
        scope = Table(f"{name} to be cleared", "", (), columns)
        found = _as_arrow(table, rows, run_id)
        _check_rows(table, found, shape)
        both = [found.select(scope.arrow.names), _as_arrow(scope, clear, run_id)]
        return cls(table, found, _distinct(pa.concat_tables(both), scope.arrow.names))

    def check_traces(self, folder: Folder, manifest: Manifest, run_id: str) -> None:
        """Raise NotInStoreError unless all traces belong to the run."""
        wanted = self.scopes["trace_id"].drop_null()
        if not len(wanted):
            return
        files = manifest.files(captured.TRACES.name, run_id, *_span(wanted))
        intact.require(folder, files)
        known = [parquet.columns(folder, file.path, ["trace_id"]) for file in files]
        there = pa.concat_tables([captured.TRACES.arrow.empty_table().select(["trace_id"]), *known])
        foreign = wanted.filter(pc.invert(pc.is_in(wanted, there["trace_id"])))
        if len(foreign):
            raise NotInStoreError(
                f"trace {foreign[0]} does not belong to run {run_id}: give the run that recorded it"
            )

    def stage(self, manifest: Manifest, files: CommitFiles) -> list[str]:
        """Stage the rows, with the other rows of the files that they replace.

        Returns:
            Paths of the replaced files.
        """
        together, retire = [self.rows], []
        span = _span(self.scopes["trace_id"])
        there = manifest.files(self.table.name, files.commit.run_id, *span)
        intact.require(files.folder, there)
        for file in there:
            path = file.path
            hit = _belong(
                parquet.columns(files.folder, path, self.scopes.column_names), self.scopes
            )
            if pc.any(hit).as_py():
                together.append(parquet.read(files.folder, path, self.table).filter(pc.invert(hit)))
                retire.append(path)
        left = sort(pa.concat_tables(together), self.table)
        if len(left):
            files.stage(self.table, batches(left, GROUP_ROWS), _span(left["trace_id"]))
        if self.table.name == analysis_tables.STEPS.name:  # it may come from another process
            ids = pc.unique(self.scopes["trace_id"]).to_pylist()
            retire += role_sums.replace_sums(manifest, files, self.rows, ids)
        return retire


def _span(trace_ids: pa.ChunkedArray) -> tuple[int, int]:
    """Smallest and largest id, with 0 for null, as in the manifest."""
    ends = pc.min_max(pc.fill_null(trace_ids, 0)).as_py()
    return ends["min"], ends["max"]


def _distinct(rows: pa.Table, names: list[str]) -> pa.Table:
    return rows.group_by(names).aggregate([])


def _belong(rows: pa.Table, scopes: pa.Table) -> pa.Array:
    """Flag the rows that belong to one of the scopes."""
    # Python tuples: in a join, SQL's or Arrow's, null would not be equal to null.
    first, *others = scopes.column_names
    if not others:
        return pc.is_in(rows[first], scopes[first])
    wanted = set(zip(*(column.to_pylist() for column in scopes.columns), strict=True))
    found = zip(*(rows[name].to_pylist() for name in scopes.column_names), strict=True)
    return pa.array([scope in wanted for scope in found], pa.bool_())


def _as_arrow(table: Table, rows: Rows, run_id: str) -> pa.Table:
    """Convert rows to Arrow with the table's columns; check names, types, nulls and the run."""
    names, arrow = table.arrow.names, table.arrow
    if not isinstance(rows, pa.Table):
        given = {name for row in rows for name in row}
        columns = {name: [row.get(name) for row in rows] for name in given}
    else:
        columns = {name: rows[name] for name in rows.column_names}
    if unknown := sorted(columns.keys() - set(names)):
        raise ObservationError(
            f"{table.name} has no column {unknown[0]}: its columns are {', '.join(names)}"
        )
    missing = [None] * len(rows)
    if "run_id" in names:
        columns.setdefault("run_id", [run_id] * len(rows))
    arrays = [_array(table, field, columns.get(field.name, missing)) for field in arrow]
    found = pa.Table.from_arrays(arrays, schema=arrow)
    if "run_id" in names and found["run_id"].unique().to_pylist() not in ([], [run_id]):
        raise ObservationError(
            f"{table.name} has rows of another run than {run_id}: leave them out"
        )
    return found


def _array(table: Table, field: pa.Field, values: pa.ChunkedArray | list) -> pa.ChunkedArray:
    name = f"{table.name}.{field.name}"
    try:
        if isinstance(values, list):
            array = pa.chunked_array([pa.array(values, field.type)], field.type)
        else:
            array = values.cast(field.type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ObservationError(f"{name} is not {field.type} in all rows: {error}") from error
    if array.null_count and not field.nullable:
        raise ObservationError(f"{name} is missing or null in a row: give every row one")
    return array


def _check_rows(table: Table, rows: pa.Table, shape: RunShape) -> None:
    for name, limit in (("layer", shape.layers), ("head", shape.heads)):
        last = pc.max(rows[name]).as_py() if name in rows.column_names else None
        if last is not None and last >= limit:
            raise ObservationError(
                f"{table.name} has a row of {name} {last}: the run has {limit}, from 0"
            )
    if len(_distinct(rows, list(table.key))) < len(rows):
        raise ObservationError(
            f"{table.name} has two rows with the same {', '.join(table.key)}: keep one"
        )
    if table is analysis_tables.STEPS:
        _check_spans(rows)
    if table is analysis_tables.PROBES:
        _check_json(rows["json"].to_pylist())


def _check_spans(steps: pa.Table) -> None:
    """Check that spans do not end before they start, and that parents are earlier steps.

    Steps of a trace must not share tokens: a token is in one step.
    """
    columns = ("start", "end", "token_start", "token_end", "step", "parent")
    for start, end, first, last, step, parent in zip(
        *(steps[name].to_pylist() for name in columns), strict=True
    ):
        if not (0 <= start <= end and 0 <= first <= last):
            raise ObservationError(
                f"step {step} goes from character {start} to {end}, from token {first} to {last}: "
                f"a span must not end before it starts"
            )
        if parent is not None and not 0 <= parent < step:
            raise ObservationError(f"step {step} has parent {parent}: a parent comes before it")
    if trace_ids := step_roles.sharing_tokens(steps):
        raise ObservationError(
            f"two steps of trace {trace_ids[0]} share a token: a token belongs to one step"
        )


def _check_json(values: list[str | None]) -> None:
    for text in values:
        try:
            json.loads(text or "null")
        except ValueError as error:
            raise ObservationError(
                f"probes.json is not JSON in a row ({error}): {text!r}"
            ) from None
