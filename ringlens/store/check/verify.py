"""Verifies that a store agrees with itself: choices with logits, routing with tokens.

Shape letters: R rows (a token on a layer), S sparse layers, E experts, G groups, k experts per
token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.interventions import Intervention
from ringlens.store.check.intervened import (
    acted_together,
    edited,
    interventions_of,
    most_added,
    unswapped,
)
from ringlens.store.encode.columns import matrix
from ringlens.store.manifest.manifest import File
from ringlens.store.read.store import Store
from ringlens.store.schema.promise import recorded_layers

# The model compares scores in float32, which rounds numbers near 1 to 6e-8, so scores that are
# closer than this may be in either order.
TIE = 1e-7
# Scores of a softmax can all be tiny, so their tolerance is relative.
SHARE_TIE = 1e-6

RING = {"score": "sigmoid", "bias": "scores", "group_score": "sum_of_two"}
"""Router rule of runs from before ``runs.router`` existed."""

BATCH_VALUES = 2**22
"""Logits recomputed at a time: 32 MiB in float64."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of recorded choices with recorded router logits.

    Attributes:
        rows: Number of rows of ``router_logits`` that were checked.
        differ: Number of rows whose ``expert_ids`` are not the set that the logits give.
        examples: Up to ten of these rows, as (trace_id, layer, pos).
        traces: All traces with such rows.
    """

    rows: int
    differ: int
    examples: tuple[tuple[int, int, int], ...]
    traces: tuple[int, ...] = ()


def verify_choices(store: Store, files: Sequence[File] | None = None) -> Agreement:
    """Recompute choices from their logits in float64, and compare them with the recorded ones.

    Scores follow from logits and bias, and groups from scores, by the rule in ``runs.router`` (see
    `scores`, `select`). Choices are compared as sets, and equal scores may be in either order. A
    row without a recorded choice counts as different, except on layers of which the run recorded
    no routing.

    Args:
        store: The store.
        files: Files of ``router_logits`` to check; all if None.

    Raises:
        StoreError: A file is damaged.
    """
    rows, differ = 0, 0
    examples: list[tuple[int, int, int]] = []
    traces: set[int] = set()
    for file in store.files("router_logits") if files is None else files:
        (run,) = _of_run(store, "runs", file.run_id).to_pylist()
        bias_SE = _bias(store, run)
        for batch in _rows_with_choices(store, file, run):
            wrong_R = ~_follows(batch, run, bias_SE)
            rows += len(wrong_R)
            differ += int(wrong_R.sum())
            traces.update(batch["trace_id"].to_numpy()[wrong_R].tolist())
            for row in np.flatnonzero(wrong_R)[: 10 - len(examples)]:
                trace_id, layer, pos = (batch.column(i)[int(row)].as_py() for i in range(3))
                examples.append((trace_id, layer, pos))
    return Agreement(rows, differ, tuple(examples), tuple(sorted(traces)))


def router_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Router rule of a run; that of Ring for runs of older versions, which do not note it."""
    stated = run.get("router")
    return RING if stated is None else json.loads(stated)


def scores(logits_RE: NDArray, bias_RE: NDArray, router: Mapping[str, Any]) -> NDArray:
    """Compute selection scores [R, E] from float64 logits; the bias is ignored if unused."""
    bias, kind = router["bias"], router["score"]
    z_RE = logits_RE + bias_RE if bias == "logits" else logits_RE
    if kind == "sigmoid":
        s_RE = 1 / (1 + np.exp(-z_RE))
    elif kind == "sqrt_softplus":
        s_RE = np.sqrt(np.logaddexp(0, z_RE))
    elif kind == "softmax":
        power_RE = np.exp(z_RE - z_RE.max(axis=1, keepdims=True))  # cannot overflow
        s_RE = power_RE / power_RE.sum(axis=1, keepdims=True)
    else:  # logits are compared as they are
        s_RE = z_RE
    return s_RE + bias_RE if bias == "scores" else s_RE


def select(
    scores_RE: NDArray,
    groups: int,
    kept: int,
    k: int,
    group_score: str = "sum_of_two",
    acts: Sequence[Intervention] = (),
) -> NDArray[np.bool_]:
    """Flag the k largest scores inside the ``kept`` best groups, [R, E].

    Args:
        scores_RE: Selection scores.
        groups: Expert groups.
        kept: Groups whose experts may be chosen.
        k: Experts per token.
        group_score: What ranks the groups.
        acts: Interventions that act at all rows.
    """
    scores_RE, behind_E, sure = edited(scores_RE, acts, groups)
    rows, experts = scores_RE.shape
    if group_score == "none":
        return _largest(np.where(np.isinf(behind_E), behind_E, scores_RE), k)
    grouped = scores_RE.reshape(rows, groups, experts // groups)
    counted = 2 if group_score == "sum_of_two" else 1
    group_score_RG = np.sort(grouped, axis=2)[:, :, -counted:].sum(axis=2)
    group_score_RG[:, sure] = np.inf
    stays_RG = _largest(group_score_RG, kept)
    limited_RE = np.where(stays_RG[:, :, None], grouped, -np.inf).reshape(rows, experts)
    return _largest(np.where(np.isinf(behind_E), behind_E, limited_RE), k)


def _largest(values_RX: NDArray, count: int) -> NDArray[np.bool_]:
    """Flag the ``count`` largest values of each row."""
    flags = np.zeros(values_RX.shape, bool)
    np.put_along_axis(flags, np.argsort(-values_RX, axis=1)[:, :count], True, axis=1)
    return flags


def _follows(batch: pa.Table, run: dict[str, Any], bias_SE: NDArray) -> NDArray[np.bool_]:
    """Flag the rows [R] whose recorded choice follows from the logits.

    In a run with interventions these are two: what the router had chosen itself, and what ran,
    which follows by the interventions that are noted at the row.
    """
    logits_RE = matrix(batch["logits"]).astype(np.float64)
    layer_R = np.searchsorted(run["sparse_layers"], batch["layer"].to_numpy())
    router = router_of(run)
    scores_RE = scores(logits_RE, bias_SE[layer_R], router)
    ran_RE, known_R = _flags(batch["expert_ids"], scores_RE.shape)
    acts = interventions_of(run)
    if not acts:
        return _chosen(scores_RE, ran_RE, known_R, run, router)
    own_RE, changed_R = _flags(batch["own_ids"], scores_RE.shape)
    own_RE = np.where(changed_R[:, None], own_RE, ran_RE)
    same_R = _chosen(scores_RE, own_RE, known_R, run, router)
    for numbers, rows in acted_together(batch["intervened"]).items():
        if numbers and max(numbers) >= len(acts):
            same_R[rows] = False
            continue
        here = [acts[number] for number in numbers]
        chosen_RE = unswapped(ran_RE[rows], here)
        same_R[rows] &= _chosen(scores_RE[rows], chosen_RE, known_R[rows], run, router, here)
    return same_R


def _flags(
    ids: pa.ChunkedArray, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Flag the listed experts [R, E], and the rows [R] that have a list."""
    flags_RE, known_R = np.zeros(shape, bool), ids.is_valid().to_numpy()
    if known_R.any():
        flags_RE[np.flatnonzero(known_R)[:, None], matrix(ids.drop_null())] = True
    return flags_RE, known_R


def _chosen(
    scores_RE: NDArray,
    recorded_RE: NDArray[np.bool_],
    known_R: NDArray[np.bool_],
    run: Mapping[str, Any],
    router: Mapping[str, Any],
    acts: Sequence[Intervention] = (),
) -> NDArray[np.bool_]:
    """Flag the rows [R] whose recorded choice is that of the scores, under interventions."""
    sizes = (int(run["groups"]), int(run["groups_kept"]), int(run["experts_per_token"]))
    limits = (*sizes, router["group_score"])
    same_R = (select(scores_RE, *limits, acts) == recorded_RE).all(axis=1)
    tied_R = np.flatnonzero(~same_R & known_R)
    # If several choices have equal scores, any of them is right: nudge the scores slightly in
    # favour of the recorded one and select again.
    rounding = TIE * max(1.0, most_added(acts))
    nudge_RE = SHARE_TIE * scores_RE[tied_R] if router["score"] == "softmax" else rounding
    nudged_RE = scores_RE[tied_R] + np.where(recorded_RE[tied_R], nudge_RE, -nudge_RE)
    same_R[tied_R] = (select(nudged_RE, *limits, acts) == recorded_RE[tied_R]).all(axis=1)
    return same_R


def _rows_with_choices(store: Store, file: File, run: Mapping[str, Any]) -> Iterator[pa.Table]:
    """Yield rows of a file of ``router_logits`` with their ``expert_ids``, in batches.

    Layers of which the run recorded logits, but no routing, are left out.
    """
    layers = list(recorded_layers(run, "routing"))
    routing = store.files("routing", file.first_trace, file.last_trace)
    query = f"""
        select l.trace_id, l.layer, l.pos, l.logits, r.expert_ids, r.own_ids, r.intervened
        from {store.scan("router_logits", [file])} as l
        left join {store.scan("routing", routing)} as r using (trace_id, layer, pos)
        where l.layer in (select unnest(?::integer[]))
    """
    rows = max(1, BATCH_VALUES // int(run["experts"]))
    for batch in store.sql(query, [layers]).to_arrow_reader(rows):
        yield pa.Table.from_batches([batch])


def _bias(store: Store, run: dict[str, Any]) -> NDArray[np.float64]:
    """Selection bias of each sparse layer's experts, [S, E]."""
    rows = _of_run(store, "experts", run["run_id"])
    bias = rows.sort_by([("layer", "ascending"), ("expert", "ascending")])["bias"].to_numpy()
    return bias.astype(np.float64).reshape(len(run["sparse_layers"]), int(run["experts"]))


def _of_run(store: Store, table: str, run_id: str) -> pa.Table:
    """Read a run's rows of a small table without opening files of other runs."""
    files = [file for file in store.files(table) if file.run_id == run_id]
    return store.sql(f"select * from {store.scan(table, files)}").to_arrow_table()
