"""What kinds of tokens predict of their experts, counted without a token's own fold.

Shape letters: R tokens of a layer, k experts per token, C kinds of tokens, F folds, P pairs of a
kind and a fold, E experts, U traces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 2**15
"""Counts of experts that are ranked at once."""


@dataclass(frozen=True)
class Strata:
    """Pairs of a kind and a fold that have tokens, of kinds that other folds have too.

    Attributes:
        pair_R: Pair of each token; P + its fold for a token of a kind that no other fold has.
        kind_R: Kind of each token, numbered among those kinds; C where no other fold has it.
        kind_P: Kind of each pair.
        fold_P: Fold of each pair.
    """

    pair_R: NDArray[np.int64]
    kind_R: NDArray[np.int64]
    kind_P: NDArray[np.int64]
    fold_P: NDArray[np.int64]

    @classmethod
    def of(cls, kind_R: NDArray[np.int64], fold_R: NDArray[np.int64]) -> Strata:
        """Pair kinds and folds, both numbered from 0."""
        folds = int(fold_R.max(initial=0)) + 1
        cell_R = kind_R * folds + fold_R
        kinds = int(kind_R.max(initial=-1)) + 1
        there_CF = np.bincount(cell_R, minlength=kinds * folds).reshape(kinds, folds) > 0
        shared_C = np.count_nonzero(there_CF, axis=1) > 1
        number_C = np.where(shared_C, np.cumsum(shared_C) - 1, np.count_nonzero(shared_C))
        kind_P, fold_P = np.nonzero(there_CF & shared_C[:, None])
        pair_CF = np.broadcast_to(len(fold_P) + np.arange(folds), there_CF.shape).copy()
        pair_CF[kind_P, fold_P] = np.arange(len(fold_P))
        return cls(pair_CF.ravel()[cell_R], number_C[kind_R], number_C[kind_P], fold_P)

    @property
    def unseen(self) -> int:
        """Tokens of a kind that no other fold has."""
        return int(np.count_nonzero(self.pair_R >= len(self.fold_P)))


class HeldOut:
    """Predictions of the experts that the tokens of one layer chose.

    Args:
        ids_kR: Chosen experts.
        fold_R: Fold of each token.
        experts: Number of experts.
    """

    def __init__(
        self, ids_kR: NDArray[np.unsignedinteger], fold_R: NDArray[np.int64], experts: int
    ) -> None:
        folds = int(fold_R.max(initial=0)) + 1
        self._ids_kR = ids_kR
        self._experts = experts
        cell_kR = ids_kR + fold_R * experts
        n_FE = np.bincount(cell_kR.ravel(), minlength=folds * experts).reshape(folds, experts)
        # Experts that tokens of a kind chose equally often are ranked by how often all did, and
        # the first of those that are equal in this as well.
        key_FE = (n_FE.sum(axis=0) - n_FE) * experts + np.arange(experts)[::-1]
        # int32 is sorted three times as fast.
        exact = np.int32 if len(fold_R) * experts < 2**31 else np.int64
        self._rank_FE = key_FE.argsort(axis=1).argsort(axis=1).astype(exact)

    def right(self, strata: Strata) -> NDArray[np.unsignedinteger]:
        """Count the experts of each token that are among the k its kind chose most elsewhere, [R].

        Where no other fold has the kind, the experts that all tokens chose most are predicted.
        """
        k, E, P = len(self._ids_kR), self._experts, len(strata.fold_P)
        hit_PE = np.empty((P + len(self._rank_FE), E), np.bool_)
        hit_PE[P:] = self._rank_FE >= E - k
        cell_kR = self._ids_kR + strata.pair_R * E
        n_PE = np.bincount(cell_kR.ravel(), minlength=P * E)[: P * E].reshape(P, E)
        of_kind_kR = self._ids_kR + strata.kind_R * E
        C = int(strata.kind_P[-1]) + 1 if P else 0
        n_CE = np.bincount(of_kind_kR.ravel(), minlength=C * E)[: C * E].reshape(C, E)
        step = max(1, _CELLS // E)
        for start in range(0, P, step):
            part = slice(start, min(start + step, P))
            key_PE = (n_CE[strata.kind_P[part]] - n_PE[part]).astype(self._rank_FE.dtype) * E
            key_PE += self._rank_FE[strata.fold_P[part]]
            # No two are equal, so exactly k are at least as large as the k-th largest.
            hit_PE[part] = key_PE >= np.partition(key_PE, E - k, axis=1)[:, E - k, None]
        return hit_PE.ravel().take(cell_kR).sum(axis=0, dtype=np.min_scalar_type(k))
