"""Signatures of steps: how a step was routed, or what its hidden states were, as one vector.

Shape letters: S steps, L layers, E experts, N selected tokens, D numbers of a signature, V numbers
of a recorded vector, k experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Choices, Shape, Tokens, blocks, layers_of
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import Selection
from ringlens.analysis.trajectory.chosen_steps import of_thoughts, steps_of
from ringlens.config import known_only, refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.store.encode.columns import matrix

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

ROUTING = "routing"
"""Kind of the signatures that come from chosen experts."""

MOST_BYTES = 2**31
"""Most memory of all signatures."""

_ROWS = 4_096
"""Recorded vectors that are read at a time."""


@dataclass(frozen=True)
class Signatures:
    """Steps and a vector of each.

    Attributes:
        steps: A row per step, in order of trace and step; see `signatures`.
        vector_SD: Their signatures, float32.
        layers: Layers that they come from.
        kind: "routing", or the point whose vectors they are.
        where: Which tokens they are of.
    """

    steps: pd.DataFrame
    vector_SD: NDArray[np.float32]
    layers: tuple[int, ...]
    kind: str
    where: str

    @property
    def traces(self) -> tuple[int, ...]:
        """Ids of the traces, in order."""
        return tuple(int(trace) for trace in self.steps["trace_id"].unique())

    def paths(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each trace's id with the places of its steps, in order."""
        trace_S = self.steps["trace_id"].to_numpy()
        starts = np.flatnonzero(np.diff(trace_S, prepend=trace_S[0] - 1))
        for places in np.split(np.arange(len(trace_S)), starts[1:]):
            yield int(trace_S[places[0]]), places


@refuse_unknown
def signatures(
    store: Source,
    where: str | None = None,
    *,
    layers: Sequence[int] | None = None,
    point: str = ROUTING,
) -> Signatures:
    """Compute a signature of each step.

    From routing: p_e = share of the step's choices on a layer that are expert e; the signature is
    √p of all layers, end to end, scaled to length 1. So the inner product of two signatures is the
    mean over layers of their Bhattacharyya coefficient Σ √(p q), from 0 (no expert in common) to 1
    (the same shares), and their distance is √2 times the Hellinger distance. From a recorded point:
    the mean vector of the step's tokens, of all layers, end to end.

    A step of few tokens has few choices, and its signature is as uncertain as that.

    Args:
        store: The store, cut into steps (`ringlens steps`). A `Shuffled` one gives the null.
        where: Which tokens, a predicate over `token_context`; thoughts only where it names no
            phase.
        layers: The layers; None for all that have a router, or whose vectors were recorded.
        point: "routing", or the name of a recorded point, for example "resid_post".

    Returns:
        The signatures. ``steps`` has a row per step: ``trace_id``, ``problem_id``, ``task``,
        ``correct``, ``step``, ``role``, ``is_backtrack``, ``is_hypothesis``, ``pos`` (its first
        selected token), ``tokens`` and ``text``. Steps without routing, or without recorded
        vectors, are left out.

    Raises:
        ConfigError: The predicate is none, a layer has no record, or the signatures would take more
            than `MOST_BYTES`.
        StoreError: Nothing is selected, the traces have no steps, or nothing was recorded.
    """
    selection = of_thoughts(store, where)
    steps = steps_of(store, selection)
    tokens, step_N = _tokens(store, selection, steps)
    compute = _of_routing if point == ROUTING else _of_vectors
    vector_SD, there_S, found = compute(store, selection, tokens, step_N, len(steps), layers, point)
    if not there_S.any():
        raise StoreError(
            f"no step selected by {selection.where!r:.200} has a record of {point!r:.60}; record "
            "it when you capture or replay, or select other traces."
        )
    kept = steps[there_S].reset_index(drop=True)
    return Signatures(kept, vector_SD[there_S], found, point, selection.where)


def _tokens(
    store: Source, selection: Selection, steps: pd.DataFrame
) -> tuple[Tokens, NDArray[np.int64]]:
    """The selected tokens that are in a step, and the place of that step."""
    table = store.sql(
        f"""select trace_id, pos, step from token_context
        where ({selection.where}\n) and step is not null order by trace_id, pos"""
    ).to_arrow_table()
    pair_N = pd.MultiIndex.from_arrays([table["trace_id"].to_numpy(), table["step"].to_numpy()])
    places = pd.MultiIndex.from_frame(steps[["trace_id", "step"]])
    return Tokens.of(table), places.get_indexer(pair_N).astype(np.int64)


def _of_routing(
    store: Source,
    selection: Selection,
    tokens: Tokens,
    step_N: NDArray[np.int64],
    S: int,
    layers: Sequence[int] | None,
    _: str,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[int, ...]]:
    """Signatures of routing [S, L·E], which steps have one, and the layers."""
    shape = Shape(*router_shape(store, selection))
    used = _asked(layers, layers_of(store), ROUTING)
    _refuse_large(S, len(used) * shape.experts)
    root_SLE = np.zeros((S, len(used), shape.experts), np.float32)
    for block in blocks(used, len(step_N), shape):
        choices = Choices.read(store, tokens, block, shape)
        for place, layer in enumerate(block):
            ids_kR, there_N = choices.of(place)
            cell_kR = step_N[there_N] * shape.experts + ids_kR.astype(np.int64)
            n_SE = np.bincount(cell_kR.ravel(), minlength=S * shape.experts).reshape(S, -1)
            p_SE = n_SE / np.maximum(n_SE.sum(axis=1, keepdims=True), 1)
            root_SLE[:, used.index(layer)] = np.sqrt(p_SE)
    vector_SD = root_SLE.reshape(S, -1)
    norm_S = np.linalg.norm(vector_SD, axis=1)
    vector_SD /= np.maximum(norm_S, 1e-12)[:, None]
    return vector_SD, norm_S > 0, used


def _of_vectors(
    store: Source,
    selection: Selection,
    tokens: Tokens,
    step_N: NDArray[np.int64],
    S: int,
    layers: Sequence[int] | None,
    point: str,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[int, ...]]:
    """Mean vectors [S, L·V] of the steps, which steps have one on every layer, and the layers."""
    rows = store.sql("select distinct point from activations where head is null").fetchall()
    known_only([point], [ROUTING, *sorted(name for (name,) in rows)], "recorded point")
    recorded = store.sql(
        """select layer, max(len(vector)) from activations
        where point = ? and head is null and layer is not null group by layer order by layer""",
        [point],
    ).fetchall()
    used = _asked(layers, [int(layer) for layer, _ in recorded], point)
    V = max(size for layer, size in recorded if layer in used)
    _refuse_large(S, len(used) * V)
    sum_SLV, n_SL = np.zeros((S, len(used), V), np.float32), np.zeros((S, len(used)), np.int64)
    query = f"""select trace_id, pos, layer, vector from activations
        where point = ? and head is null and layer in ({", ".join(map(str, used))})"""
    for batch in store.sql(query, [point]).to_arrow_reader(_ROWS):
        table = pa.Table.from_batches([batch])
        place_R = tokens.places(table)
        mine_R = place_R >= 0
        at = step_N[place_R[mine_R]], np.searchsorted(used, table["layer"].to_numpy()[mine_R])
        np.add.at(sum_SLV, at, matrix(table["vector"])[mine_R])
        np.add.at(n_SL, at, 1)
    mean_SLV = sum_SLV / np.maximum(n_SL, 1)[:, :, None]
    there_S = np.asarray((n_SL > 0).all(axis=1))
    return mean_SLV.reshape(S, -1).astype(np.float32), there_S, used


def _asked(layers: Sequence[int] | None, there: Sequence[int], what: str) -> tuple[int, ...]:
    """Layers that are asked for, in order."""
    if layers is None:
        return tuple(there)
    if isinstance(layers, str | bytes) or not isinstance(layers, Sequence):
        raise ConfigError(f"layers = {layers!r:.60}; give a list of layers, such as [3, 4].")
    asked = tuple(sorted({whole("layers", layer, 0) for layer in layers}))
    lost = [layer for layer in asked if layer not in there]
    if lost or not asked:
        raise ConfigError(
            f"layers = {list(layers)!r:.60}; {what!r:.60} is recorded of layers "
            f"{', '.join(map(str, there)) or 'none'}."
        )
    return asked


def _refuse_large(S: int, D: int) -> None:
    if 4 * S * D > MOST_BYTES:
        raise ConfigError(
            f"the signatures of {S:,} steps with {D:,} numbers each take "
            f"{4 * S * D / 2**30:.1f} GiB, and {MOST_BYTES / 2**30:.0f} are held at once; select "
            "fewer traces, or give a few layers."
        )
