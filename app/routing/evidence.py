"""Finds what one expert was chosen for: its tokens, and the places where it weighs most.

A question about an expert needs one layer of the routing of a whole run. That layer is read once
and kept, with the run's tokens, as arrays that stand side by side; every further expert of the
layer is then a few passes over them.

Shape letters: N tokens, R routed tokens, k experts a token, C times chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.app.shared.file_cache import FileCache
from ringlens.app.shared.scope import Scope
from ringlens.errors import RinglensError
from ringlens.store import Store
from ringlens.store.encode.columns import matrix
from ringlens.store.manifest.manifest import File
from ringlens.store.schema.captured import PHASES

Row = dict[str, Any]
Key = tuple[Scope, int]

LAYERS_LIMIT = 256 * 2**20
"""Bytes of layers that are kept: 48 a routed token, so five million of Ring-1T's."""

TOKENS_LIMIT = 128 * 2**20
"""Bytes of tokens that are kept, some 25 each."""

PAUSE = 0.2
"""Seconds before a layer is read ahead: what was asked for is painted first."""

LEAST = 10
"""Occurrences below which a share says little (the limit of OLMoE, arXiv 2409.02060)."""

_PHASE = f"(list_position({list(PHASES)!r}, phase) - 1)::utinyint"


@dataclass(frozen=True)
class Tokens:
    """The tokens of a scope, in order.

    Attributes:
        key_N: ``trace_id * 2**32 + pos``.
        token_id_N: Ids in the vocabulary.
        phase_N: Places in ``PHASES``.
        text_N: Their texts.
    """

    key_N: NDArray[np.int64]
    token_id_N: NDArray[np.int32]
    phase_N: NDArray[np.uint8]
    text_N: pa.Array

    @classmethod
    def ordered(cls, columns: Sequence[NDArray], text_N: pa.Array) -> Tokens:
        """Sort columns of tokens by position."""
        order = np.argsort(columns[0], kind="stable")
        key_N, token_id_N, phase_N = (column[order] for column in columns)
        return cls(key_N, token_id_N, phase_N, text_N.take(pa.array(order)))

    def __add__(self, other: Tokens) -> Tokens:
        text_N = pa.concat_arrays([self.text_N, other.text_N])
        pairs = zip(self.columns, other.columns, strict=True)
        return Tokens.ordered([np.concatenate(pair) for pair in pairs], text_N)

    @property
    def columns(self) -> tuple[NDArray, ...]:
        """Return all columns but the text."""
        return self.key_N, self.token_id_N, self.phase_N

    @property
    def bytes(self) -> int:
        """Memory."""
        return sum(column.nbytes for column in self.columns) + self.text_N.nbytes

    def text(self, first: int, last: int) -> str:
        """Return the text of the tokens at the places ``first`` to ``last - 1``."""
        return "".join(self.text_N[first:last].to_pylist())

    def near(self, place: int, around: int) -> tuple[int, int]:
        """Return the range of places at most ``around`` tokens from one, in the same trace."""
        key = self.key_N[place]
        first = max(key - around, key >> 32 << 32)
        found = np.searchsorted(self.key_N, [first, key + around + 1])
        return int(found[0]), int(found[1])


@dataclass(frozen=True)
class Layer:
    """The choices of one layer in a scope, in order of tokens.

    Attributes:
        key_R: As `Tokens.key_N`.
        expert_ids_Rk: Chosen experts.
        share_Rk: Their shares of the token's routing weight; nan where weights are not known.
    """

    key_R: NDArray[np.int64]
    expert_ids_Rk: NDArray[np.unsignedinteger]
    share_Rk: NDArray[np.float32]

    def __add__(self, other: Layer) -> Layer:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        # Without rows it is not known how many columns a matrix has.
        parts = [[part for part in pair if len(part)] or [pair[0]] for pair in pairs]
        return Layer.ordered(*(np.concatenate(part) for part in parts))

    @classmethod
    def ordered(cls, key_R: NDArray, *columns: NDArray) -> Layer:
        """Sort columns of choices by position."""
        order = np.argsort(key_R, kind="stable")
        return cls(key_R[order], *(column[order] for column in columns))

    @property
    def bytes(self) -> int:
        """Memory."""
        return self.key_R.nbytes + self.expert_ids_Rk.nbytes + self.share_Rk.nbytes


@dataclass(frozen=True)
class Chosen:
    """Where an expert was chosen.

    Attributes:
        tokens: The tokens of the scope.
        seen_N: Which of them are in the phase that is asked for.
        place_C: Places among them of those that chose the expert.
        share_C: The expert's shares of the routing weight there.
    """

    tokens: Tokens
    seen_N: NDArray[np.bool_]
    place_C: NDArray[np.int64]
    share_C: NDArray[np.float32]

    def top(self, order: str, limit: int) -> list[Row]:
        """Return the tokens an expert sees most.

        Args:
            order: 'count', or 'share' for the tokens it sees the largest share of, which then must
                occur `LEAST` times in the scope.
            limit: Rows at most.

        Returns:
            Rows of token_id, text, n (times chosen), occurrences, share (n / occurrences) and
            weight (mean share of the routing weight when chosen; None where it is not known).
        """
        ids_C = self.tokens.token_id_N[self.place_C]
        id_U, first_U, which_C, n_U = np.unique(
            ids_C, return_index=True, return_inverse=True, return_counts=True
        )
        all_N = np.bincount(self.tokens.token_id_N[self.seen_N])
        occurrences_U = all_N[id_U] if len(id_U) else n_U
        weight_U = np.bincount(which_C, self.share_C, len(id_U)) / n_U
        share_U = n_U / occurrences_U
        by_share = order == "share"
        found_U = np.lexsort((id_U, -n_U, -share_U) if by_share else (id_U, -n_U))
        found_U = found_U[occurrences_U[found_U] >= (LEAST if by_share else 1)][:limit]
        return [
            {
                "token_id": int(id_U[u]),
                "text": self.tokens.text_N[int(self.place_C[first_U[u]])].as_py(),
                "n": int(n_U[u]),
                "occurrences": int(occurrences_U[u]),
                "share": float(share_U[u]),
                "weight": _known(weight_U[u]),
            }
            for u in found_U
        ]

    def contexts(self, limit: int, around: int = 9) -> list[Row]:
        """Return the places where an expert weighs most, one for each token id.

        Returns:
            Rows of trace_id, pos, weight (share of the token's routing weight; None where it is
            not known), and the text before, at and after the token (``around`` tokens on each
            side).
        """
        heaviest_C = np.lexsort((self.place_C, -self.share_C))
        ids_C = self.tokens.token_id_N[self.place_C[heaviest_C]]
        _, first = np.unique(ids_C, return_index=True)
        best = heaviest_C[np.sort(first)[:limit]]
        return [self._context(int(c), around) for c in best]

    def _context(self, c: int, around: int) -> Row:
        place = int(self.place_C[c])
        key = int(self.tokens.key_N[place])
        first, last = self.tokens.near(place, around)
        return {
            "trace_id": key >> 32,
            "pos": key & 0xFFFFFFFF,
            "weight": _known(self.share_C[c]),
            "before": self.tokens.text(first, place),
            "token": self.tokens.text(place, place + 1),
            "after": self.tokens.text(place + 1, last),
        }


class EvidenceCache:
    """Caches layers and tokens of the last scopes; a commit adds to them. Safe for threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tokens = FileCache(self._read_tokens, _bytes, TOKENS_LIMIT, join=Tokens.__add__)
        self._layers = FileCache(self._read_layer, _bytes, LAYERS_LIMIT, join=Layer.__add__)
        self._reader = ThreadPoolExecutor(1, "ringlens-ahead")
        self._reading: Future[None] | None = None
        self._closed = threading.Event()

    def close(self) -> None:
        """Read nothing ahead any more."""
        self._closed.set()
        self._reader.shutdown(cancel_futures=True)

    def look_ahead(self, scope: Scope, layers: Sequence[int]) -> None:
        """Read layers that may be asked for next, unless others are being read ahead."""
        if self._reading is None or self._reading.done():
            with suppress(RuntimeError):  # it is closed
                self._reading = self._reader.submit(self._look, scope, layers)

    def _look(self, scope: Scope, layers: Sequence[int]) -> None:
        for layer in layers:
            if self._closed.wait(PAUSE):
                return
            with suppress(RinglensError):  # who asks for it is told
                found = self._layer(scope, layer)
                if len(layers) * found.bytes > LAYERS_LIMIT // 2:
                    return

    def _layer(self, scope: Scope, layer: int) -> Layer:
        files = scope.files(self._store.snapshot(), "routing")
        return self._layers.get((scope, layer), files)

    def chosen(self, scope: Scope, layer: int, expert: int, phase: str) -> Chosen:
        """Find where an expert was chosen, in one phase or in 'all'."""
        snapshot = self._store.snapshot()
        tokens = self._tokens.get(scope, scope.files(snapshot, "tokens"))
        choices = self._layers.get((scope, layer), scope.files(snapshot, "routing"))
        row_C, rank_C = np.nonzero(choices.expert_ids_Rk == expert)
        place_C = np.searchsorted(tokens.key_N, choices.key_R[row_C])
        seen_N = np.full(len(tokens.key_N), True)
        if phase != "all":
            seen_N = tokens.phase_N == PHASES.index(phase)
        inside_C = seen_N[place_C]
        share_C = choices.share_Rk[row_C, rank_C]
        return Chosen(tokens, seen_N, place_C[inside_C], share_C[inside_C])

    def _read_tokens(self, scope: Scope, files: Sequence[File]) -> Tokens:
        query = f"""
            select trace_id, pos, token_id, {_PHASE} as phase, text
            from {self._store.scan("tokens", files)} where {scope.sql}"""
        rows = self._store.sql(query, scope.params).to_arrow_table()
        columns = (_key(rows), rows["token_id"].to_numpy(), rows["phase"].to_numpy())
        return Tokens.ordered(columns, rows["text"].combine_chunks())

    def _read_layer(self, key: Key, files: Sequence[File]) -> Layer:
        scope, layer = key
        query = f"""
            select trace_id, pos, expert_ids, weights
            from {self._store.scan("routing", files)} where layer = $layer and {scope.sql}"""
        rows = self._store.sql(query, {**scope.params, "layer": layer}).to_arrow_table()
        ids_Rk = matrix(rows["expert_ids"])
        share_Rk = np.full(ids_Rk.shape, np.nan, np.float32)
        known_R = rows["weights"].is_valid().to_numpy()
        if known_R.any():
            weight_Rk = matrix(rows["weights"].drop_null())
            share_Rk[known_R] = weight_Rk / weight_Rk.sum(axis=1, keepdims=True)
        return Layer.ordered(_key(rows), ids_Rk, share_Rk)


def _key(rows: pa.Table) -> NDArray[np.int64]:
    return (rows["trace_id"].to_numpy() << 32) + rows["pos"].to_numpy()


def _bytes(value: Tokens | Layer) -> int:
    return value.bytes


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
