"""Usage of experts: counts by phase, layer and expert, and what is read from them.

Shape letters: P phases, S sparse layers, E experts, k experts a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.store.schema import PHASES

Array = NDArray[np.float64]

METRICS = {
    "share": "Share of tokens",
    "weight": "Share of weight",
    "lift": "Log lift",
    "flips": "Bias flips",
}
PHASE_CHOICES = ("all", *PHASES, "difference")


@dataclass(frozen=True)
class Usage:
    """How often each expert was chosen, from one scan of the routing table.

    Attributes:
        layers: The S sparse layers.
        experts_per_token: k.
        groups: Expert groups; E / groups experts stand side by side in one.
        tokens_P: Tokens seen in each phase.
        n_PSE: Times chosen.
        weight_PSE: Sum of the expert's shares of its tokens' routing weight.
        flips_PSE: Times chosen only because of its selection bias.
    """

    layers: tuple[int, ...]
    experts_per_token: int
    groups: int
    tokens_P: Array
    n_PSE: Array
    weight_PSE: Array
    flips_PSE: Array

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
                'weight': its share of all routing weight (uniform: 1 / E).
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
                return _of_phase(self.weight_PSE, phase) / tokens
            if metric == "lift":
                return np.log2(n_SE / tokens / (self.experts_per_token / self.experts))
            return _of_phase(self.flips_PSE, phase) / n_SE


def _of_phase(values: Array, phase: str) -> Array:
    return values.sum(axis=0) if phase == "all" else values[PHASES.index(phase)]


def count(
    batches: Iterable[pa.RecordBatch],
    tokens: dict[str, int],
    layers: Sequence[int],
    experts: int,
    experts_per_token: int,
    groups: int,
) -> Usage:
    """Count the rows of :func:`ringlens.app.queries.choices`.

    Args:
        batches: The rows.
        tokens: Tokens by phase.
        layers: Sparse layers of the run.
        experts: E.
        experts_per_token: k.
        groups: Expert groups.
    """
    shape = (len(PHASES), len(layers), experts)
    place_of_layer = np.zeros(max(layers, default=0) + 1, dtype=np.int64)
    place_of_layer[list(layers)] = np.arange(len(layers))
    n, weight, flips = (np.zeros(np.prod(shape)) for _ in range(3))
    for batch in batches:
        phase_R = batch["phase"].to_numpy().astype(np.int64)
        cell_R = (phase_R * len(layers) + place_of_layer[batch["layer"].to_numpy()]) * experts
        chosen_Rk = batch["expert_ids"].flatten().to_numpy().reshape(len(batch), -1)
        weight_Rk = batch["weights"].flatten().to_numpy().reshape(len(batch), -1)
        share_Rk = weight_Rk / weight_Rk.sum(axis=1, keepdims=True)
        cell_Rk = (cell_R[:, None] + chosen_Rk).ravel()
        n += np.bincount(cell_Rk, minlength=n.size)
        weight += np.bincount(cell_Rk, share_Rk.ravel(), minlength=n.size)
        flipped = batch["bias_flips"]
        row_of = np.repeat(np.arange(len(batch)), np.diff(flipped.offsets.to_numpy()))
        flips += np.bincount(cell_R[row_of] + flipped.flatten().to_numpy(), minlength=n.size)
    tokens_P = np.array([tokens.get(name, 0) for name in PHASES], dtype=float)
    arrays = (values.reshape(shape) for values in (n, weight, flips))
    return Usage(tuple(layers), experts_per_token, groups, tokens_P, *arrays)


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
