"""Cumulative counts of a trace per usage block: any range of tokens is one subtraction.

Shape letters: B usage blocks, S sparse layers, E experts, k experts per token, R rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlens.store.encode.columns import matrix
from ringlens.store.read.store import Store
from ringlens.store.schema.usage_tables import USAGE_BLOCK

CACHE_BYTES = 256 * 2**20
"""Memory of a `CubeCache`: six traces of 32,000 tokens of Ring-1T."""


@dataclass(frozen=True)
class BlockCube:
    """How often each expert was chosen before each usage block of one trace.

    Attributes:
        trace_id: The trace.
        layers: The S sparse layers.
        cumulative_BSE: uint32 [B + 1, S, E]; entry b counts the positions below
            ``b * USAGE_BLOCK``.
    """

    trace_id: int
    layers: tuple[int, ...]
    cumulative_BSE: NDArray[np.uint32]

    @property
    def blocks(self) -> int:
        """Number B of usage blocks; the last may be partly filled."""
        return len(self.cumulative_BSE) - 1

    def blocks_SE(self, first: int, last: int) -> NDArray[np.uint32]:
        """Number of times chosen in the usage blocks ``first`` to ``last - 1``, [S, E]."""
        return self.cumulative_BSE[last] - self.cumulative_BSE[first]

    def counts_SE(self, store: Store, start: int, stop: int) -> NDArray[np.uint32]:
        """Number of times chosen at the positions ``start`` to ``stop - 1``, [S, E].

        Whole blocks come from the cube. Routing is read only for the positions at the edges, if
        ``start`` or ``stop`` is inside a block.
        """
        # The last block may be partly filled, but a range beyond its end contains all of it.
        last = stop // USAGE_BLOCK if stop < self.blocks * USAGE_BLOCK else self.blocks
        first = min(-(-start // USAGE_BLOCK), last)
        if -(-start // USAGE_BLOCK) > last:  # inside one block
            return self._raw_SE(store, start, stop)
        counts_SE = self.blocks_SE(first, last)
        if start < first * USAGE_BLOCK:
            counts_SE += self._raw_SE(store, start, first * USAGE_BLOCK)
        if last * USAGE_BLOCK < stop and last < self.blocks:
            counts_SE += self._raw_SE(store, last * USAGE_BLOCK, stop)
        return counts_SE

    def _raw_SE(self, store: Store, start: int, stop: int) -> NDArray[np.uint32]:
        files = store.files("routing", self.trace_id, self.trace_id)
        query = (
            f"select layer, expert_ids from {store.scan('routing', files)}"
            " where trace_id = ? and pos >= ? and pos < ?"
        )
        rows = store.sql(query, [self.trace_id, start, stop]).to_arrow_table()
        index_R = np.searchsorted(self.layers, rows["layer"].to_numpy())
        experts = self.cumulative_BSE.shape[2]
        cell_Rk = index_R[:, None] * experts + matrix(rows["expert_ids"]).astype(np.int64)
        counts = np.bincount(cell_Rk.ravel(), minlength=len(self.layers) * experts)
        return counts.reshape(len(self.layers), experts).astype(np.uint32)


def read_cube(store: Store, trace_id: int) -> BlockCube:
    """Build the cube of one trace from its rows of ``usage_blocks``; no layers if it has none."""
    files = store.files("usage_blocks", trace_id, trace_id)
    query = f"select layer, block, n from {store.scan('usage_blocks', files)} where trace_id = ?"
    rows = store.sql(query, [trace_id]).to_arrow_table()
    layer_R, block_R, n_RE = rows["layer"].to_numpy(), rows["block"].to_numpy(), matrix(rows["n"])
    layers, index_R = np.unique(layer_R, return_inverse=True)
    blocks = int(block_R.max(initial=-1)) + 1
    cube_BSE = np.zeros((blocks + 1, len(layers), n_RE.shape[1]), np.uint32)
    if len(set(zip(block_R.tolist(), index_R.tolist(), strict=True))) == len(block_R):
        cube_BSE[block_R + 1, index_R] = n_RE
    else:  # a block written by several commits; plain assignment would keep only the last part
        np.add.at(cube_BSE, (block_R + 1, index_R), n_RE)
    np.cumsum(cube_BSE, axis=0, out=cube_BSE)
    return BlockCube(trace_id, tuple(int(layer) for layer in layers), cube_BSE)


class CubeCache:
    """Cache of the cubes that were used last, with bounded memory; safe for threads.

    Args:
        store: The store.
        limit: Bytes of all cached cubes; the latest is always kept, even if it is larger.
    """

    def __init__(self, store: Store, limit: int = CACHE_BYTES) -> None:
        self._store = store
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], BlockCube] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Memory of the cached cubes."""
        return sum(cube.cumulative_BSE.nbytes for cube in self._kept.values())

    def get(self, trace_id: int) -> BlockCube:
        """Cube of a trace as it is now: a trace that has grown is read again."""
        files = self._store.files("usage_blocks", trace_id, trace_id)
        key = (trace_id, tuple(file.path for file in files))
        with self._lock:  # also keeps several threads from reading the same cube
            if key not in self._kept:
                self._kept[key] = read_cube(self._store, trace_id)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and self.bytes > self._limit:
                self._kept.popitem(last=False)
            return self._kept[key]
