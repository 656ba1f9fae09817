"""Sampling that does not depend on the batch: every trace draws from its own generator.

Adding Gumbel noise to log-probabilities and taking the largest draws exactly from the softmax
(Gumbel-max trick). So sampling becomes greedy search over noisy scores, and a trace's text depends
on its seed alone, not on what shares its batch.

Shape letters: B batch, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ringlens.config import Sampling


class GumbelSampler(LogitsProcessor):
    """Adds each trace's own Gumbel noise to its scores."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores_BV: torch.FloatTensor) -> Tensor:
        """Noisy scores [B, V] whose largest entry is a draw from softmax(scores)."""
        noise = [torch.rand(scores_BV.shape[1], generator=g) for g in self.generators]
        uniform_BV = torch.stack(noise).clamp_(min=torch.finfo(torch.float32).tiny)
        return scores_BV.float() - (-uniform_BV.log()).log().to(scores_BV.device)


def processors(sampling: Sampling, seeds: list[int]) -> LogitsProcessorList:
    """The chain of score processors for greedy ``generate``; empty for temperature 0."""
    chain = LogitsProcessorList()
    if sampling.temperature == 0:
        return chain
    if sampling.temperature != 1:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    chain.append(GumbelSampler(seeds))
    return chain


def trace_seed(seed: int, index: int) -> int:
    """Seed of the ``index``-th trace of a run, spread so that neighbours share nothing."""
    return (seed * 1_000_003 + index) * 0x9E3779B1 % 2**31
