"""Permutation p-values; what is permuted are whole traces.

The tokens of a trace depend on each other, so they are never permuted singly.

Shape letters: U traces, X quantities that are tested, B draws, W bytes of eight traces each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

EXACT = 5_000
"""Most permutations that are all computed; beyond, they are drawn."""

MOST = 20_000
"""Draws after which a quantity that is still rare is left: no p-value is below 1 / (MOST + 1)."""

EXCEEDANCES = 20
"""Draws at least as extreme as the observation after which a quantity is decided."""

_CELLS = 1_000_000
"""Statistics per chunk: what stays in a core's cache is compared several times faster."""

_FEW = 1_000
"""Draws after which the quantities that are left have small p-values."""

_LARGE = 5
"""Fewest terms that must flip together for a quantity whose draws are picked: one in 16."""

_ALIKE = 10
"""Fewest quantities with the same such terms: picking draws for each takes longer than testing."""

_BITS = 64
"""Most traces whose signs are compared as bits."""

_TIE = 1e-5
"""Part of the sum of a quantity's terms by which float32 may miss an equal statistic."""


class Scheme(Protocol):
    """What is exchangeable if there is no difference.

    A draw gives each trace a sign or a set; a statistic is the sum of the traces' terms with it.
    """

    @property
    def distinct(self) -> int:
        """Number of permutations, the observed one included."""

    def observed(self) -> NDArray[np.float64]:
        """Factor of each trace's term in the data, [U]."""

    def every(self) -> NDArray[np.float64]:
        """Factors of all permutations, [distinct, U]."""

    def draw(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Factors of random permutations, [B, U]."""


@dataclass(frozen=True)
class SignFlips:
    """The two parts of a trace change places, trace by trace.

    Attributes:
        traces: Number of traces.
    """

    traces: int

    @property
    def distinct(self) -> int:
        """Number of permutations."""
        return 2**self.traces

    def observed(self) -> NDArray[np.float64]:
        """Each trace as it is, [U]."""
        return np.ones(self.traces)

    def every(self) -> NDArray[np.float64]:
        """All combinations of signs, [distinct, U]."""
        bits = np.arange(self.distinct)[:, None] >> np.arange(self.traces)
        return np.where(bits & 1, -1.0, 1.0)

    def draw(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Random signs, [B, U]."""
        return np.where(rng.integers(0, 2, (draws, self.traces)), -1.0, 1.0)


@dataclass(frozen=True)
class Exchanges:
    """Whole traces change places between two sets of fixed sizes.

    Attributes:
        traces: Number of traces.
        first: Number of traces in the first set; these stand first.
    """

    traces: int
    first: int

    @property
    def distinct(self) -> int:
        """Number of permutations."""
        return comb(self.traces, self.first)

    def observed(self) -> NDArray[np.float64]:
        """1 for the traces of the first set, [U]."""
        return (np.arange(self.traces) < self.first).astype(np.float64)

    def every(self) -> NDArray[np.float64]:
        """All first sets, [distinct, U]."""
        factors = np.zeros((self.distinct, self.traces))
        for row, chosen in enumerate(combinations(range(self.traces), self.first)):
            factors[row, list(chosen)] = 1
        return factors

    def draw(self, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """Random first sets, [B, U]."""
        order = np.argsort(rng.random((draws, self.traces)), axis=1)
        return (order < self.first).astype(np.float64)


def p_values(
    terms_UX: NDArray[np.float64], scheme: Scheme, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Compute two-sided p-values of sums over traces.

    A small number of permutations is computed whole, and p is exact. Otherwise permutations are
    drawn until `EXCEEDANCES` of them are as extreme as the observation, or `MOST` were drawn: the
    sequential p-value of Besag and Clifford (Biometrika 78, 1991), valid for any stopping of this
    kind, which spends the draws where p is small.

    Args:
        terms_UX: Each trace's term of each quantity; the terms of a quantity sum to zero over all
            permutations.
        scheme: What is exchangeable.
        rng: Source of the draws.

    Returns:
        p-values [X], in (0, 1].
    """
    observed_X = np.abs(scheme.observed() @ terms_UX)
    # What is as extreme counts as such though its last bits differ: p may only grow by that.
    least_X = (observed_X - _TIE * np.abs(terms_UX).sum(axis=0)).astype(np.float32)
    single_UX = terms_UX.astype(np.float32)
    if scheme.distinct <= EXACT:
        return _shares(single_UX, scheme.every(), least_X)
    return _sequential(single_UX, scheme, least_X, rng)


def smallest(scheme: Scheme) -> float:
    """Smallest two-sided p-value that a scheme can give."""
    if scheme.distinct > EXACT:
        return 1 / (MOST + 1)
    # A sign flip of all traces, or the other set, is as extreme; sets of unequal size have no twin.
    paired = isinstance(scheme, SignFlips) or 2 * scheme.observed().sum() == len(scheme.observed())
    return (2 if paired else 1) / scheme.distinct


def _shares(
    terms_UX: NDArray[np.float32], factors_BU: NDArray[np.float64], least_X: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Share of permutations that are as extreme as the observation, [X]."""
    step = max(1, _CELLS // max(1, terms_UX.shape[1]))
    extreme_X = np.zeros(terms_UX.shape[1])
    for start in range(0, len(factors_BU), step):
        extreme_X += _times(_extreme(factors_BU[start : start + step], terms_UX, least_X))
    return extreme_X / len(factors_BU)


def _extreme(
    factors_BU: NDArray[np.float64], terms_UX: NDArray[np.float32], least_X: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether statistics are as extreme as the observation, [B, X]."""
    statistic_BX = factors_BU.astype(np.float32) @ terms_UX
    return np.abs(statistic_BX, out=statistic_BX) >= least_X


def _times(over_BX: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many rows are true, [X]; summed as they are, booleans would each become an int64."""
    bytes_BX, most = over_BX.view(np.uint8), 255
    times_X = np.zeros(over_BX.shape[1], np.int64)
    for start in range(0, len(bytes_BX), most):
        times_X += np.add.reduce(bytes_BX[start : start + most], axis=0, dtype=np.uint8)
    return times_X


def _sequential(
    terms_UX: NDArray[np.float32],
    scheme: Scheme,
    least_X: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    test = _Test(terms_UX, least_X)
    left, drawn = np.arange(len(least_X)), 0
    while left.size and drawn < MOST:
        if drawn >= _FEW and isinstance(scheme, SignFlips) and scheme.traces <= _BITS:
            test.flips(left, drawn, scheme.draw(rng, MOST - drawn))
            break
        draws = int(np.clip(_CELLS // left.size, 1, min(max(256, drawn), MOST - drawn)))
        left = test.draws(left, np.arange(drawn, drawn + draws), scheme.draw(rng, draws))
        drawn += draws
    return np.where(np.isnan(test.p_X), (test.extreme_X + 1) / (MOST + 1), test.p_X)


class _Test:
    """Draws that were as extreme as the observation.

    Attributes:
        p_X: p-values of the quantities that are decided; NaN of others.
        extreme_X: Extreme draws of the others.
    """

    def __init__(self, terms_UX: NDArray[np.float32], least_X: NDArray[np.float32]) -> None:
        self._terms_UX, self._least_X = terms_UX, least_X
        self.p_X = np.full(len(least_X), np.nan)
        self.extreme_X = np.zeros(len(least_X), np.int64)

    def draws(
        self, which: NDArray[np.int64], at_B: NDArray[np.int64], factors_BU: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Count further draws, of which ``at_B`` were drawn before; give what is undecided."""
        over_BX = _extreme(factors_BU, self._terms_UX[:, which], self._least_X[which])
        before_X, total_X = self.extreme_X[which], self.extreme_X[which] + _times(over_BX)
        decided_X = total_X >= EXCEEDANCES
        last_BX = before_X[decided_X] + over_BX[:, decided_X].cumsum(axis=0) >= EXCEEDANCES
        self.p_X[which[decided_X]] = EXCEEDANCES / (at_B[last_BX.argmax(axis=0)] + 1)
        self.extreme_X[which] = total_X
        return which[~decided_X]

    def flips(self, which: NDArray[np.int64], drawn: int, factors_BU: NDArray[np.float64]) -> None:
        """Count all draws that are left, of `SignFlips`.

        Most terms of a quantity with a small p have one sign. One that is larger than all terms of
        the other sign together must not flip alone: a draw is extreme only if all of these flip, or
        none does. So of most draws, two comparisons of a byte tell that they are not: that of the
        eight traces among which a quantity has most such terms.
        """
        terms_UX = self._terms_UX[:, which].astype(np.float64)
        terms_UX *= np.sign(terms_UX.sum(axis=0))
        other_X = np.maximum(-terms_UX, 0).sum(axis=0)
        large_UX = terms_UX > other_X + 2 * _TIE * np.abs(terms_UX).sum(axis=0)
        at_B = np.arange(drawn, drawn + len(factors_BU))
        flips_BW = np.packbits(factors_BU < 0, axis=1)
        key_X, word_X = _fullest(np.packbits(large_UX, axis=0))
        groups, group_X, alike = np.unique(
            word_X * 256 + key_X, return_inverse=True, return_counts=True
        )
        picked = np.flatnonzero((np.bitwise_count(groups % 256) >= _LARGE) & (alike >= _ALIKE))
        for group in picked:
            word, key = divmod(int(groups[group]), 256)
            both_B = flips_BW[:, word] & np.uint8(key)
            candidates = np.flatnonzero((both_B == 0) | (both_B == key))
            if candidates.size:
                self.draws(which[group_X == group], at_B[candidates], factors_BU[candidates])
        few_X = np.isin(group_X, picked)
        left, start = which[~few_X], 0
        while left.size and start < len(at_B):
            part = slice(start, start + max(1, _CELLS // left.size))
            left, start = self.draws(left, at_B[part], factors_BU[part]), part.stop


def _fullest(bits_WX: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The byte of each column with the most bits, and its place, [X]."""
    word_X = np.bitwise_count(bits_WX).argmax(axis=0)
    return bits_WX[word_X, np.arange(len(word_X))].astype(np.int64), word_X
