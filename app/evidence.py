"""What one expert was chosen for: its tokens, and the places where it weighs most.

A question about an expert needs one layer of the routing of a whole run. That layer is read once
and kept, with the run's tokens, as arrays that stand side by side; every further expert of the
layer is then a few passes over them.

Shape letters: N tokens, R routed tokens, k experts a token, C times chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.app.kept import Kept
from ringlens.app.scope import Scope
from ringlens.store import Store
from ringlens.store.columns import matrix
from ringlens.store.manifest import File
from ringlens.store.schema import PHASES

Row = dict[str, Any]
Key = tuple[Scope, int]

LAYERS_LIMIT = 256 * 2**20
"""Bytes of layers that are kept: 48 a routed token, so five million of Ring-1T's."""

TOKENS_LIMIT = 128 * 2**20
"""Bytes of tokens that are kept, 13 each."""

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
    """

    key_N: NDArray[np.int64]
    token_id_N: NDArray[np.int32]
    phase_N: NDArray[np.uint8]

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*_merged(_arrays(self), _arrays(other)))


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
        return Layer(*_merged(_arrays(self), _arrays(other)))


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


class EvidenceCache:
    """Layers and tokens of the scopes asked for last; a commit adds to them. Safe for threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tokens = Kept(self._read_tokens, _bytes, TOKENS_LIMIT, join=Tokens.__add__)
        self._layers = Kept(self._read_layer, _bytes, LAYERS_LIMIT, join=Layer.__add__)

    def chosen(self, scope: Scope, layer: int, expert: int, phase: str) -> Chosen:
        """Where an expert was chosen, in one phase or in 'all'."""
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

    def tokens(self, chosen: Chosen, order: str, limit: int) -> list[Row]:
        """The tokens an expert sees most.

        Args:
            chosen: Where it was chosen.
            order: 'count', or 'share' for the tokens it sees the largest share of, which then must
                occur `LEAST` times in the scope.
            limit: Rows at most.

        Returns:
            Rows of token_id, text, n (times chosen), occurrences, share (n / occurrences) and
            weight (mean share of the routing weight when chosen; None where it is not known).
        """
        ids_C = chosen.tokens.token_id_N[chosen.place_C]
        id_U, first_U, which_C, n_U = np.unique(
            ids_C, return_index=True, return_inverse=True, return_counts=True
        )
        all_N = np.bincount(chosen.tokens.token_id_N[chosen.seen_N])
        occurrences_U = all_N[id_U] if len(id_U) else n_U
        weight_U = np.bincount(which_C, chosen.share_C, len(id_U)) / n_U
        share_U = n_U / occurrences_U
        by_share = order == "share"
        found_U = np.lexsort((id_U, -n_U, -share_U) if by_share else (id_U, -n_U))
        found_U = found_U[occurrences_U[found_U] >= (LEAST if by_share else 1)][:limit]
        texts = self._texts(chosen.tokens.key_N[chosen.place_C[first_U[found_U]]], 0)
        return [
            {
                "token_id": int(id_U[u]),
                "text": text[0][1],
                "n": int(n_U[u]),
                "occurrences": int(occurrences_U[u]),
                "share": float(share_U[u]),
                "weight": _known(weight_U[u]),
            }
            for u, text in zip(found_U, texts, strict=True)
        ]

    def contexts(self, chosen: Chosen, limit: int, around: int = 9) -> list[Row]:
        """The places where an expert weighs most, one for each token id.

        Returns:
            Rows of trace_id, pos, weight (share of the token's routing weight; None where it is
            not known), and the text before, at and after the token (``around`` tokens on each
            side).
        """
        heaviest_C = np.lexsort((chosen.place_C, -chosen.share_C))
        ids_C = chosen.tokens.token_id_N[chosen.place_C[heaviest_C]]
        _, first = np.unique(ids_C, return_index=True)
        best = heaviest_C[np.sort(first)[:limit]]
        keys = chosen.tokens.key_N[chosen.place_C[best]]
        return [
            {
                "trace_id": int(key >> 32),
                "pos": int(key & 0xFFFFFFFF),
                "weight": _known(share),
                "before": "".join(text for offset, text in texts if offset < 0),
                "token": "".join(text for offset, text in texts if offset == 0),
                "after": "".join(text for offset, text in texts if offset > 0),
            }
            for key, share, texts in zip(
                keys, chosen.share_C[best], self._texts(keys, around), strict=True
            )
        ]

    def _texts(self, keys: NDArray[np.int64], around: int) -> list[list[tuple[int, str]]]:
        """Offset and text of each token up to ``around`` tokens from each of some tokens."""
        places = [(int(key >> 32), int(key & 0xFFFFFFFF)) for key in keys]
        if not places:
            return []
        selects = [
            f"select {i} as i, pos - {pos} as place, text"
            f" from {self._store.scan('tokens', self._store.files('tokens', trace_id, trace_id))}"
            f" where trace_id = {trace_id} and pos between {pos - around} and {pos + around}"
            for i, (trace_id, pos) in enumerate(places)
        ]
        query = " union all ".join(selects) + " order by i, place"
        found: list[list[tuple[int, str]]] = [[] for _ in places]
        for i, place, text in self._store.sql(query).fetchall():
            found[i].append((place, text))
        return found

    def _read_tokens(self, scope: Scope, files: Sequence[File]) -> Tokens:
        query = f"""
            select trace_id, pos, token_id, {_PHASE} as phase
            from {self._store.scan("tokens", files)} where {scope.sql}"""
        rows = self._store.sql(query, scope.params).to_arrow_table()
        columns = (rows["token_id"].to_numpy(), rows["phase"].to_numpy())
        return Tokens(*_ordered(_key(rows), *columns))

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
        return Layer(*_ordered(_key(rows), ids_Rk, share_Rk))


def _key(rows: pa.Table) -> NDArray[np.int64]:
    return (rows["trace_id"].to_numpy() << 32) + rows["pos"].to_numpy()


def _ordered(key: NDArray[np.int64], *columns: NDArray) -> tuple[NDArray, ...]:
    order = np.argsort(key, kind="stable")
    return key[order], *(column[order] for column in columns)


def _arrays(value: Tokens | Layer) -> tuple[NDArray, ...]:
    return tuple(vars(value).values())


def _merged(ours: tuple[NDArray, ...], theirs: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
    """Columns one below the other, in order of the first."""
    pairs = zip(ours, theirs, strict=True)
    # Without rows it is not known how many columns a matrix has.
    filled = [[part for part in pair if len(part)] or [pair[0]] for pair in pairs]
    return _ordered(*(np.concatenate(parts) for parts in filled))


def _bytes(value: Tokens | Layer) -> int:
    return sum(array.nbytes for array in _arrays(value))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
