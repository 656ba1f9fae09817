"""Counts how often each expert was chosen, from rollups or from the routing itself.

Shape letters: P phases, S sparse layers whose routing was recorded, E experts, k experts a token,
R rows, F flips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.load.usage import Array, Sums, Usage
from ringlens.analysis.selections.router import one_router
from ringlens.analysis.selections.selection import read
from ringlens.errors import NotInStoreError, StoreError
from ringlens.store import Store
from ringlens.store.encode.columns import matrix, ragged
from ringlens.store.read.selection import check_where
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.promise import recorded_layers

PHASE_INDEX = f"list_position({list(PHASES)!r}, phase) - 1"
"""SQL of a phase's place in ``PHASES``."""

BATCH_VALUES = 2_000_000
"""Numbers of the rows that are held at a time, about."""

Count = Callable[[pa.Table, NDArray[np.int64], tuple[int, int]], Sums]


def counted(
    store: Store,
    query: str,
    params: Mapping[str, object],
    run: Mapping[str, Any],
    count: Count,
) -> Sums:
    """Sum up the rows of a query; they come a batch at a time.

    Args:
        store: The store.
        query: Gives ``phase`` (see `PHASE_INDEX`), ``layer``, and what ``count`` needs.
        params: Parameters of the query.
        run: A row of ``runs``: its layers and experts are those of all rows.
        count: `of_rollups` or `of_routing`.
    """
    layers, experts = recorded_layers(run, "routing"), run["experts"]
    place = np.zeros(max(layers, default=0) + 1, np.int64)
    place[list(layers)] = np.arange(len(layers))
    sums = Sums.zeros(len(layers), experts)
    width = experts if count is of_rollups else run["experts_per_token"]
    batch_rows = max(1_024, BATCH_VALUES // max(1, width))
    for rows in _tables(store.sql(query, params).to_arrow_reader(batch_rows), batch_rows):
        cell_R = rows["phase"].to_numpy() * len(layers) + place[rows["layer"].to_numpy()]
        sums += count(rows, cell_R.astype(np.int64), (len(layers), experts))
    return sums


def _tables(batches: Iterable[pa.RecordBatch], least: int) -> Iterator[pa.Table]:
    """Join batches to tables of so many rows at least: each trace of a store comes as its own."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= least:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


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
    """Add each row to its cell, in place."""
    order = np.argsort(cell_R, kind="stable")
    cells, starts = np.unique(cell_R[order], return_index=True)
    # `np.add.reduceat` takes four times as long: it sums column by column.
    for cell, own in zip(cells, np.split(order, starts[1:]), strict=True):
        total_CE[cell] += rows_RE[own].sum(axis=0, dtype=np.float64)


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


def usage(store: Store, where: str | None = None) -> tuple[Usage, list[dict[str, Any]]]:
    """Count how often each expert was chosen for the tokens that a predicate selects.

    Args:
        store: The store.
        where: A predicate over ``token_context``; None for all tokens, which is answered from the
            usage tables where they sum up all of the routing.

    Returns:
        The usage, and rows of ``runs`` of the runs that it is of.

    Raises:
        ConfigError: ``where`` is no predicate, or selects replays beside other traces without
            saying so: the same tokens would be counted twice.
        NotInStoreError: No token with routing is selected.
        StoreError: The runs have routers of different shapes, or recorded different layers.
    """
    read(store, where, "phase")
    tokens = (
        "tokens" if where is None else f"(from token_context where {check_where(store, where)}\n)"
    )
    ids = store.sql(f"select distinct run_id from traces semi join {tokens} using (trace_id)")
    known = [run for (run,) in ids.fetchall()]
    query = "select * from runs where run_id in (select unnest($ids)) order by started, run_id"
    runs = store.sql(query, {"ids": known}).to_arrow_table().to_pylist()
    first = _recorded_alike(runs, where)
    sums = _rollups(store, first) if where is None else None
    from_rollups = sums is not None
    if sums is None:
        query = f"""
            select {PHASE_INDEX} as phase, layer, expert_ids, weights, bias_flips
            from routing join (select trace_id, pos, phase from {tokens}) using (trace_id, pos)"""
        sums = counted(store, query, {}, first, of_routing)
    if not sums.rows:
        raise NotInStoreError(
            f"no routing was recorded for the selected tokens (their run recorded "
            f"{', '.join(first['record']) or 'only tokens'}): replay them with record=['routing']"
        )
    layers = recorded_layers(first, "routing")
    found = Usage(layers, first["experts_per_token"], first["groups"], sums, from_rollups)
    return found, runs


def _recorded_alike(runs: list[dict[str, Any]], where: str | None) -> dict[str, Any]:
    """The first of some runs that recorded routing, all of one router and of the same layers."""
    if not runs:
        what = "no tokens yet" if where is None else f"no token selected by {where!r:.200}"
        raise NotInStoreError(f"the store holds {what}: there is nothing to count")
    one_router(runs, "experts", "experts_per_token", "groups", "sparse_layers")
    routed = [run for run in runs if recorded_layers(run, "routing")]
    if not routed:
        return runs[0]
    first, layers = routed[0], recorded_layers(routed[0], "routing")
    other = next((run for run in routed if recorded_layers(run, "routing") != layers), None)
    if other is not None:
        raise StoreError(
            f"runs {first['run_id']} and {other['run_id']} recorded the routing of different "
            f"layers: take one, with where=\"run_id = '{first['run_id']}'\""
        )
    return first


def _rollups(store: Store, run: dict[str, Any]) -> Sums | None:
    """The sums of all runs; None where the usage tables do not sum up all of the routing."""
    query = f"select {PHASE_INDEX} as phase, layer, tokens, n, weight, bias_flips from usage_traces"
    sums = counted(store, query, {}, run, of_rollups)
    return sums if sums.rows == sum(f.rows for f in store.snapshot().get("routing", ())) else None
