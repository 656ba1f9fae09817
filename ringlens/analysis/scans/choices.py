"""Choices of selected tokens, layer by layer, as arrays.

A query for each layer would read all files as often; here they are read once for a block of layers.

Shape letters: L layers, N selected tokens, R rows, k experts per token, U traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.kept import has_sums, once
from ringlens.store.encode.columns import matrix
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

BYTES = 2**28
"""Choices that are held at once."""

_SHARE = 8
"""Layers that a worker of a cluster counts at a time."""

_ROWS = 200_000
"""Rows that are read at a time."""


class Shape(NamedTuple):
    """Experts of a layer, and experts per token."""

    experts: int
    k: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The smallest type that holds an expert's id."""
        return np.min_scalar_type(self.experts - 1)


def layers_of(store: Source, where: str | None = None) -> list[int]:
    """Layers with a router, in order; of the traces of selected tokens, or of all."""
    if where is None:
        return list(once(store, _every_layer))
    return _layers(store, f"trace_id in (select trace_id from token_context where ({where}\n))")


def _every_layer(store: Source) -> list[int]:
    return _layers(store, "true")


def _layers(store: Source, traces: str) -> list[int]:
    """Layers of some traces; the sums have a row where the routing has thousands."""
    table = "usage_traces" if has_sums(store) else "routing"
    query = f"select distinct layer from {table} where {traces} order by layer"
    return [int(layer) for (layer,) in store.sql(query).fetchall()]


def blocks(
    layers: Sequence[int], tokens: int, shape: Shape, engine: Engine = LOCAL
) -> list[tuple[int, ...]]:
    """Divide layers into blocks whose choices are held at once; on a cluster, into shares."""
    most = max(1, BYTES // (tokens * shape.k * shape.dtype.itemsize))
    return shares(layers, most if engine is LOCAL else min(most, _SHARE))


def shares(layers: Sequence[int], size: int | None = None) -> list[tuple[int, ...]]:
    """Divide layers into shares of a size, or of what a worker of a cluster counts at a time."""
    size = size or _SHARE
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


@dataclass(frozen=True)
class Tokens:
    """Where selected tokens stand, in order of trace and position.

    Attributes:
        traces: Ids of the traces, [U].
        trace_N: Place of each token's trace.
        start_U: Where the positions of each trace begin in ``place``, and where the last end.
        place: Place of each token among those selected, by trace and position; -1 for others.
    """

    traces: NDArray[np.int64]
    trace_N: NDArray[np.int64]
    start_U: NDArray[np.int64]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> Tokens:
        """Place the tokens of rows that are ordered by ``trace_id`` and ``pos``."""
        traces, trace_N = np.unique(table["trace_id"].to_numpy(), return_inverse=True)
        pos_N = table["pos"].to_numpy().astype(np.int64)
        last_U = np.append(np.flatnonzero(np.diff(trace_N)), len(trace_N) - 1)
        start_U = np.append(0, np.cumsum(pos_N[last_U] + 1))
        place = np.full(start_U[-1], -1)
        place[start_U[trace_N] + pos_N] = np.arange(len(pos_N))
        return cls(traces, trace_N, start_U, place)

    def places(self, rows: pa.Table) -> NDArray[np.int64]:
        """Place of the token of each row; -1 for one that is not selected."""
        trace_R = rows["trace_id"].to_numpy()
        u_R = np.minimum(np.searchsorted(self.traces, trace_R), len(self.traces) - 1)
        at_R = self.start_U[u_R] + rows["pos"].to_numpy()
        mine_R = (self.traces[u_R] == trace_R) & (at_R < self.start_U[u_R + 1])
        return np.where(mine_R, self.place[np.where(mine_R, at_R, 0)], -1)


@dataclass(frozen=True)
class Choices:
    """Chosen experts of some layers, by token.

    Attributes:
        ids_LNk: Their ids, heaviest first.
        there_LN: Whether the token has a choice on the layer.
    """

    ids_LNk: NDArray[np.unsignedinteger]
    there_LN: NDArray[np.bool_]

    @classmethod
    def read(cls, store: Source, tokens: Tokens, layers: Sequence[int], shape: Shape) -> Choices:
        """Read the choices of some layers, given in order."""
        there_LN = np.zeros((len(layers), len(tokens.trace_N)), bool)
        ids_LNk = np.zeros((*there_LN.shape, shape.k), shape.dtype)
        first, last = tokens.traces[0], tokens.traces[-1]
        query = f"""select trace_id, pos, layer, expert_ids from routing
            where layer in ({", ".join(map(str, layers))})
            and trace_id between {first} and {last}"""
        for batch in store.sql(query).to_arrow_reader(_ROWS):
            rows = pa.Table.from_batches([batch])
            place_R = tokens.places(rows)
            mine_R = place_R >= 0
            at = np.searchsorted(layers, rows["layer"].to_numpy()[mine_R]), place_R[mine_R]
            ids_LNk[at] = matrix(rows["expert_ids"])[mine_R]
            there_LN[at] = True
        return cls(ids_LNk, there_LN)

    def of(self, layer: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
        """Experts [k, R] of the tokens with a choice, and which these are [N], by place."""
        there_N = self.there_LN[layer]
        return np.ascontiguousarray(self.ids_LNk[layer, there_N].T), there_N

    def heaviest(self, layer: int, experts: int) -> NDArray[np.int64]:
        """Heaviest expert of every token [N], by place; ``experts`` where it has none."""
        return np.where(self.there_LN[layer], self.ids_LNk[layer, :, 0], experts).astype(np.int64)
