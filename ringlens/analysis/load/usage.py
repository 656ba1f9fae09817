"""Usage of experts: counts by phase, layer and expert, and what is read from them.

Shape letters: P phases, S sparse layers, E experts, k experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlens.store.schema.captured import PHASES

Array = NDArray[np.float64]

METRICS = {
    "share": "Share of tokens",
    "weight": "Weight share",
    "lift": "Log lift",
    "flips": "Bias flips",
}
PHASE_CHOICES = ("all", *PHASES, "difference")


@dataclass(frozen=True)
class Sums:
    """How often each expert was chosen, summed over traces.

    Attributes:
        tokens_PS: Routed tokens of each phase at each layer.
        n_PSE: Times chosen.
        weight_PSE: Sum of the expert's routing weights.
        flips_PSE: Times chosen only because of its selection bias.
        reasons: Whether weights and flips are known; in imported runs they are not.
    """

    tokens_PS: Array
    n_PSE: Array
    weight_PSE: Array
    flips_PSE: Array
    reasons: bool

    @classmethod
    def zeros(cls, layers: int, experts: int) -> Sums:
        """The sums over nothing."""
        shape = (len(PHASES), layers, experts)
        n, weight, flips = np.zeros((3, *shape))
        return cls(np.zeros(shape[:2]), n, weight, flips, True)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.tokens_PS + other.tokens_PS,
            self.n_PSE + other.n_PSE,
            self.weight_PSE + other.weight_PSE,
            self.flips_PSE + other.flips_PSE,
            self.reasons and other.reasons,
        )

    @property
    def rows(self) -> int:
        """Rows of ``routing`` that are summed up."""
        return int(self.tokens_PS.sum())


@dataclass(frozen=True)
class Usage:
    """How often each expert of a model was chosen in some traces.

    Attributes:
        layers: The S sparse layers whose routing was recorded.
        experts_per_token: k.
        groups: Expert groups; E / groups experts stand side by side in one.
        sums: What was counted.
        from_rollups: Whether that was read from the usage tables, not counted in ``routing``.
    """

    layers: tuple[int, ...]
    experts_per_token: int
    groups: int
    sums: Sums
    from_rollups: bool

    @property
    def tokens_P(self) -> Array:
        """Routed tokens of each phase."""
        return self.sums.tokens_PS.max(axis=1, initial=0)

    @property
    def n_PSE(self) -> Array:
        """Times chosen."""
        return self.sums.n_PSE

    @property
    def flips_PSE(self) -> Array:
        """Times chosen only because of the selection bias; nan where that is not known."""
        return self.sums.flips_PSE if self.sums.reasons else np.full_like(self.n_PSE, np.nan)

    @property
    def weight_PSE(self) -> Array:
        """Sum of the expert's routing weights; nan where they are not known."""
        return self.sums.weight_PSE if self.sums.reasons else np.full_like(self.n_PSE, np.nan)

    @property
    def experts(self) -> int:
        """E."""
        return self.n_PSE.shape[2]

    def group(self, expert: int) -> int:
        """Group of an expert."""
        return expert // (self.experts // self.groups)

    def tokens(self, phase: str) -> int:
        """Tokens of a phase ('all' sums the phases)."""
        return int(_of_phase(self.tokens_P, phase))

    def count_SE(self, phase: str) -> Array:
        """Times chosen [S, E]; for 'difference', over think and answer together."""
        if phase == "difference":
            return self.count_SE("think") + self.count_SE("answer")
        return _of_phase(self.n_PSE, phase)

    def metric_SE(self, metric: str, phase: str) -> Array:
        """One number a layer and expert.

        Args:
            metric: 'share': N_e / N, the share of tokens that chose the expert (uniform: k / E).
                'weight': its part of all routing weight of its layer (uniform: 1 / E).
                'lift': log2 of share / (k / E), as in OLMoE's domain specialisation
                (arXiv 2409.02060) with the uniform choice as baseline; -inf where never chosen.
                'flips': share of its choices that a selection bias of zero would not have made.
            phase: 'all', a phase, or 'difference': think minus answer (for 'lift' this is
                log2 of share in think / share in answer).

        Returns:
            [S, E]; nan where there is nothing to divide by.
        """
        if phase == "difference":
            with np.errstate(invalid="ignore"):  # -inf minus -inf: chosen in neither phase
                return self.metric_SE(metric, "think") - self.metric_SE(metric, "answer")
        n_SE = _of_phase(self.n_PSE, phase)
        tokens = self.tokens(phase)
        with np.errstate(divide="ignore", invalid="ignore"):
            if metric == "share":
                return n_SE / tokens
            if metric == "weight":
                weight_SE = _of_phase(self.weight_PSE, phase)
                return weight_SE / weight_SE.sum(axis=1, keepdims=True)
            if metric == "lift":
                return np.log2(n_SE / tokens / (self.experts_per_token / self.experts))
            return _of_phase(self.flips_PSE, phase) / n_SE


def _of_phase(values: Array, phase: str) -> Array:
    return values.sum(axis=0) if phase == "all" else values[PHASES.index(phase)]


def max_violation(n_SE: Array) -> Array:
    """MaxVio of each layer [S]: max N_e / mean N_e - 1 (arXiv 2408.15664); 0 is balanced."""
    mean_S = n_SE.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return n_SE.max(axis=1) / mean_S - 1


def gini(n_SE: Array) -> Array:
    """Gini coefficient of the experts' loads in each layer [S]; 0 even, towards 1 one expert.

    With loads sorted ascending: sum_i (2 i - E - 1) n_i / (E sum_i n_i), i from 1.
    """
    experts = n_SE.shape[1]
    sorted_SE = np.sort(n_SE, axis=1)
    rank_E = 2 * np.arange(1, experts + 1) - experts - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sorted_SE * rank_E).sum(axis=1) / (experts * n_SE.sum(axis=1))
