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
    """Adds each trace's own Gumbel noise to its scores.

    The noise at a position follows from the trace's seed and the position alone, so a trace that
    was interrupted goes on with the noise it would have had.

    Args:
        seeds: Seed of each trace.
        pads: Padded positions before each.
    """

    def __init__(self, seeds: list[int], pads: list[int]) -> None:
        self.seeds, self.pads = seeds, pads

    def __call__(self, input_ids: torch.LongTensor, scores_BV: torch.FloatTensor) -> Tensor:
        """Noisy scores [B, V] whose largest entry is a draw from softmax(scores)."""
        V, length = scores_BV.shape[1], input_ids.shape[1]
        noise = [
            torch.rand(V, generator=torch.Generator().manual_seed(_spread(seed, length - pad)))
            for seed, pad in zip(self.seeds, self.pads, strict=True)
        ]
        uniform_BV = torch.stack(noise).clamp_(min=torch.finfo(torch.float32).tiny)
        return scores_BV.float() - (-uniform_BV.log()).log().to(scores_BV.device)


def processors(sampling: Sampling, seeds: list[int], pads: list[int]) -> LogitsProcessorList:
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
    chain.append(GumbelSampler(seeds, pads))
    return chain


def trace_seed(seed: int, index: int) -> int:
    """Seed of the ``index``-th trace of a run, spread so that neighbours share nothing."""
    return (seed * 1_000_003 + index) * 0x9E3779B1 % 2**31


def _spread(seed: int, position: int) -> int:
    """A seed for a position, far from those of its neighbours (splitmix64's mixing)."""
    mixed = (seed << 32 | position) * 0x9E3779B97F4A7C15 & 2**64 - 1
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    return (mixed ^ mixed >> 31) >> 1
