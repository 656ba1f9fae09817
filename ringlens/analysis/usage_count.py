"""Counts how often each expert was chosen, from rollups or from the routing itself.

Shape letters: P phases, S sparse layers whose routing was recorded, E experts, k experts a token,
R rows, F flips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.usage import Array, Sums
from ringlens.store import Store
from ringlens.store.encode.columns import matrix, ragged
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
    for batch in store.sql(query, params).to_arrow_reader(batch_rows):
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
