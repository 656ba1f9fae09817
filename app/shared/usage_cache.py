"""Caches usage of the last scopes, summed up from the store's usage tables.

Where these do not sum up all of the routing (stores of format 1 have none), the routing itself is
counted, which takes seconds in a large store.

Shape letters: P phases, S sparse layers, E experts, k experts a token, R rows, F flips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.app.shared.file_cache import FileCache
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage import Array, Sums, Usage
from ringlens.store import Store
from ringlens.store.encode.columns import matrix, ragged
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.captured import PHASES

LIMIT = 64 * 2**20
"""Bytes of usage that are kept: forty scopes of Ring-1T's size."""

_PHASE = f"list_position({list(PHASES)!r}, phase) - 1"


class UsageCache:
    """Caches usage of the last scopes; a commit adds to it. Safe for threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rollups = FileCache(self._from_rollups, _bytes, LIMIT, join=Sums.__add__)
        self._routing = FileCache(self._from_routing, _bytes, LIMIT)

    def get(self, scope: Scope) -> Usage:
        """Return the usage of a scope: from rollups, or counted if these are not complete."""
        snapshot = self._store.snapshot()
        run = self._run(scope)
        sums = self._rollups.get(scope, scope.files(snapshot, "usage_traces"))
        from_rollups = sums.rows == self._routed(scope, snapshot)
        if not from_rollups:
            files = [f for table in ("routing", "tokens") for f in scope.files(snapshot, table)]
            sums = self._routing.get(scope, files)
        layers = tuple(run["sparse_layers"])
        return Usage(layers, run["experts_per_token"], run["groups"], sums, from_rollups)

    def _run(self, scope: Scope) -> dict:
        query = "select * from runs where run_id = $run_id"
        return self._store.sql(query, {"run_id": scope.run_id}).to_arrow_table().to_pylist()[0]

    def _routed(self, scope: Scope, snapshot: Mapping[str, Sequence[File]]) -> int:
        """Count rows of routing in the scope; reads the files' footers where the manifest does."""
        files = scope.files(snapshot, "routing")
        if scope.trace_id is None or all(f.first_trace == f.last_trace for f in files):
            return sum(file.rows for file in files)
        source = self._store.scan("routing", files)
        query = f"select count(*) from {source} where {scope.sql}"
        return int(self._store.sql(query, scope.params).fetchall()[0][0])

    def _from_rollups(self, scope: Scope, files: Sequence[File]) -> Sums:
        """Sum the rows of ``usage_traces``."""
        query = f"""
            select {_PHASE} as phase, layer, tokens, n, weight, bias_flips
            from {self._store.scan("usage_traces", files)} where {scope.sql}"""
        return self._sum(scope, query, 4_096, of_rollups)

    def _from_routing(self, scope: Scope, files: Sequence[File]) -> Sums:
        """Count the rows of ``routing``."""
        source = {
            table: self._store.scan(table, [file for file in files if file.table == table])
            for table in ("routing", "tokens")
        }
        query = f"""
            select phase, layer, expert_ids, weights, bias_flips
            from (select * from {source["routing"]} where {scope.sql})
            join (select trace_id, pos, {_PHASE} as phase from {source["tokens"]}
                  where {scope.sql}) using (trace_id, pos)"""
        return self._sum(scope, query, 200_000, of_routing)

    def _sum(
        self,
        scope: Scope,
        query: str,
        batch_rows: int,
        count: Callable[[pa.Table, NDArray[np.int64], tuple[int, int]], Sums],
    ) -> Sums:
        """Sum up the rows of a query; they come a batch at a time."""
        run = self._run(scope)
        layers, experts = run["sparse_layers"], run["experts"]
        place = np.zeros(max(layers, default=0) + 1, np.int64)
        place[list(layers)] = np.arange(len(layers))
        sums = Sums.zeros(len(layers), experts)
        for batch in self._store.sql(query, scope.params).to_arrow_reader(batch_rows):
            rows = pa.Table.from_batches([batch])
            cell_R = rows["phase"].to_numpy() * len(layers) + place[rows["layer"].to_numpy()]
            sums += count(rows, cell_R.astype(np.int64), (len(layers), experts))
        return sums


def of_rollups(rows: pa.Table, cell_R: NDArray[np.int64], shape: tuple[int, int]) -> Sums:
    """Sums over rows of ``usage_traces``.

    Args:
        rows: The rows.
        cell_R: Place of each row's phase and layer among P * S.
        shape: S and E.
    """
    zero = Sums.zeros(*shape)
    phases, layers, experts = zero.n_PSE.shape
    tokens_PS = np.bincount(cell_R, rows["tokens"].to_numpy(), phases * layers)
    reasons = not rows["weight"].null_count
    known = ("n", "weight", "bias_flips") if reasons else ("n",)
    for name, total in zip(known, (zero.n_PSE, zero.weight_PSE, zero.flips_PSE), strict=False):
        _add_rows(total.reshape(-1, experts), cell_R, matrix(rows[name]))
    counted_PS = tokens_PS.astype(np.float64).reshape(phases, layers)
    return replace(zero, tokens_PS=counted_PS, reasons=reasons)


def _add_rows(total_CE: Array, cell_R: NDArray[np.int64], rows_RE: NDArray) -> None:
    """Add each row to its cell, in place: in each turn one row of every cell that is left."""
    left = np.arange(len(cell_R))
    while len(left):
        cells, first = np.unique(cell_R[left], return_index=True)
        total_CE[cells] += rows_RE[left[first]]
        left = np.delete(left, first)


def of_routing(rows: pa.Table, cell_R: NDArray[np.int64], shape: tuple[int, int]) -> Sums:
    """Sum over rows of ``routing``; arguments as those of `of_rollups`."""
    layers, experts = shape

    def count(cell: NDArray, weight: NDArray | None = None) -> NDArray[np.float64]:
        size = len(PHASES) * layers * experts
        found = np.bincount(cell, weight, size).astype(np.float64)
        return found.reshape(len(PHASES), layers, experts)

    tokens_PS = np.bincount(cell_R, minlength=len(PHASES) * layers).astype(np.float64)
    chosen_Rk = cell_R[:, None] * experts + matrix(rows["expert_ids"])
    sums = replace(
        Sums.zeros(*shape),
        tokens_PS=tokens_PS.reshape(-1, layers),
        n_PSE=count(chosen_Rk.ravel()),
    )
    if rows["weights"].null_count:
        return replace(sums, reasons=False)
    flipped_F, offsets = ragged(rows["bias_flips"])
    of_row_F = np.repeat(cell_R, np.diff(offsets))
    return replace(
        sums,
        weight_PSE=count(chosen_Rk.ravel(), matrix(rows["weights"]).ravel()),
        flips_PSE=count(of_row_F * experts + flipped_F),
    )


def _bytes(sums: Sums) -> int:
    return sums.n_PSE.nbytes + sums.weight_PSE.nbytes + sums.flips_PSE.nbytes
