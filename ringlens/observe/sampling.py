"""Sampling that does not depend on the batch: every trace draws from its own generator.

Adding Gumbel noise to log-probabilities and taking the largest draws exactly from the softmax
(Gumbel-max trick). So sampling becomes greedy search over noisy scores, and a trace's text depends
on its seed alone, not on what shares its batch.

Shape letters: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        noise_BV = torch.empty(scores_BV.shape)
        positions = [input_ids.shape[1] - pad for pad in self.pads]
        return scores_BV.float() - noise_at(self.seeds, positions, noise_BV).to(scores_BV.device)


def noise_at(seeds: Sequence[int], positions: Sequence[int], noise_BV: Tensor) -> Tensor:
    """What is taken from the scores of each trace to draw its token: log(-log u), u uniform.

    Args:
        seeds: Seed of each trace.
        positions: Position of the token that is drawn, in each trace.
        noise_BV: Where it is put, float32 on the CPU; returned.
    """
    for row_V, seed, position in zip(noise_BV, seeds, positions, strict=True):
        row_V.uniform_(generator=torch.Generator().manual_seed(_spread(seed, position)))
    return noise_BV.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_().log_()


class StoredTokens(LogitsProcessor):
    """Lets a trace that is generated again take the tokens that the store has of it.

    They follow from the scores, but on kernels that are not deterministic a tie may break the other
    way.

    Args:
        stored: Tokens of each trace from its first; none where nothing is stored.
        pads: Padded positions before each.
    """

    def __init__(self, stored: list[list[int]], pads: list[int]) -> None:
        self.stored, self.pads = stored, pads

    def __call__(self, input_ids: torch.LongTensor, scores_BV: torch.FloatTensor) -> Tensor:
        """Scores [B, V] whose largest entry is the stored token, where there is one."""
        length = input_ids.shape[1]
        for row, (token_ids, pad) in enumerate(zip(self.stored, self.pads, strict=True)):
            if length - pad < len(token_ids):
                scores_BV[row] = -torch.inf
                scores_BV[row, token_ids[length - pad]] = 0.0
        return scores_BV


def processors(
    sampling: Sampling, seeds: list[int], pads: list[int], stored: list[list[int]]
) -> LogitsProcessorList:
    """The chain of score processors for greedy ``generate``, for traces of which some are stored.

    Without stored tokens and with temperature 0 it is empty.
    """
    chain = warpers(sampling)
    if sampling.temperature:
        chain.append(GumbelSampler(seeds, pads))
    if any(stored):
        chain.append(StoredTokens(stored, pads))
    return chain


def warpers(sampling: Sampling) -> LogitsProcessorList:
    """The processors before noise is added: temperature, and the tokens that are left out."""
    chain = LogitsProcessorList()
    if sampling.temperature == 0:
        return chain
    if sampling.temperature != 1:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    return chain


def trace_seed(seed: int, index: int) -> int:
    """Seed of the ``index``-th trace of a run, spread so that neighbours share nothing."""
    return (seed * 1_000_003 + index) * 0x9E3779B1 % 2**31


def _spread(seed: int, position: int) -> int:
    """A seed for a position, far from those of its neighbours (splitmix64's mixing)."""
    mixed = (seed << 32 | position) * 0x9E3779B97F4A7C15 & 2**64 - 1
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
    return (mixed ^ mixed >> 31) >> 1
