"""Caches usage of the last scopes, summed up from the store's usage tables.

Where these do not sum up all of the routing (stores of format 1 have none), the routing itself is
counted, which takes seconds in a large store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ringlens.analysis.load.usage import Sums, Usage
from ringlens.analysis.load.usage_count import PHASE_INDEX, counted, of_rollups, of_routing
from ringlens.app.shared.file_cache import FileCache
from ringlens.app.shared.scope import Scope
from ringlens.store import Store
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.promise import recorded_layers

LIMIT = 64 * 2**20
"""Bytes of usage that are kept: forty scopes of Ring-1T's size."""


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
        layers = recorded_layers(run, "routing")
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
            select {PHASE_INDEX} as phase, layer, tokens, n, weight, bias_flips
            from {self._store.scan("usage_traces", files)} where {scope.sql}"""
        return counted(self._store, query, scope.params, self._run(scope), of_rollups)

    def _from_routing(self, scope: Scope, files: Sequence[File]) -> Sums:
        """Count the rows of ``routing``."""
        source = {
            table: self._store.scan(table, [file for file in files if file.table == table])
            for table in ("routing", "tokens")
        }
        query = f"""
            select phase, layer, expert_ids, weights, bias_flips
            from (select * from {source["routing"]} where {scope.sql})
            join (select trace_id, pos, {PHASE_INDEX} as phase from {source["tokens"]}
                  where {scope.sql}) using (trace_id, pos)"""
        return counted(self._store, query, scope.params, self._run(scope), of_routing)


def _bytes(sums: Sums) -> int:
    return sums.n_PSE.nbytes + sums.weight_PSE.nbytes + sums.flips_PSE.nbytes
