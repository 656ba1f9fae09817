"""Triton kernel: the choice of a router in one launch, where torch takes twenty.

A program, one warp for up to 256 experts, holds one token's scores in registers and takes the best
out of them again and again. Scores are compared as integers of the same order (`ordered`): the
hardware finds the largest integer of a warp in one step, NaN has a place in the order, and one
integer, REMOVED, lies below all scores, −inf included. Of equal scores the lower index wins.

Shape letters: N tokens, E experts, k experts a token, G groups, S experts of a group.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

REMOVED = tl.constexpr(-(2**31))
NOWHERE = tl.constexpr(2**31 - 1)


def choose(
    logits_NE: Tensor, bias_E: Tensor, groups: tuple[int, int], k: int, scaling: float
) -> tuple[Tensor, Tensor]:
    """Weights, float32 [N, k], and ids [N, k] of the chosen experts, best first.

    Args:
        logits_NE: Router logits, float32.
        bias_E: What is added to affinities for the choice alone, float32.
        groups: Groups of experts, and how many of them may be chosen from.
        k: Experts a token.
        scaling: Factor on the weights.
    """
    (N, E), (G, kept) = logits_NE.shape, groups
    weights_Nk = logits_NE.new_empty(N, k)
    ids_Nk = logits_NE.new_empty(N, k, dtype=torch.int64)
    block_G, block_S = triton.next_power_of_2(G), triton.next_power_of_2(E // G)
    with torch.cuda.device_of(logits_NE):
        _choose[(N,)](
            logits_NE.contiguous(),
            bias_E.contiguous(),
            weights_Nk,
            ids_Nk,
            scaling,
            K=k,
            G=G,
            S=E // G,
            KEPT=kept,
            BLOCK_K=triton.next_power_of_2(k),
            BLOCK_G=block_G,
            BLOCK_S=block_S,
            num_warps=min(max(block_G * block_S // 256, 1), 8),
        )
    return weights_Nk, ids_Nk


@triton.jit
def _choose(
    logits,
    bias,
    weights,
    ids,
    scaling,
    K: tl.constexpr,
    G: tl.constexpr,
    S: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * (G * S)
    # Experts by group, [BLOCK_G, BLOCK_S]; what pads a block is no candidate.
    g, s = tl.arange(0, BLOCK_G)[:, None], tl.arange(0, BLOCK_S)[None, :]
    expert, real = g * S + s, (g < G) & (s < S)
    affinity = sigmoid(tl.load(logits + expert, mask=real, other=-float("inf")))
    score = affinity + tl.load(bias + expert, mask=real, other=0.0)
    scores = limit(tl.where(real, ordered(score), REMOVED), G, KEPT, BLOCK_G, BLOCK_S)[0]
    scores = tl.reshape(scores, [BLOCK_G * BLOCK_S])
    code = tl.reshape(expert, [BLOCK_G * BLOCK_S])
    lane = tl.arange(0, BLOCK_K)
    chosen = tl.zeros([BLOCK_K], tl.int32)
    for j in range(K):
        scores, _, at = take(scores, code)
        chosen = tl.where(lane == j, at, chosen)
    used = lane < K
    weight = sigmoid(tl.load(logits + chosen, mask=used, other=-float("inf")))
    if K > 1:
        weight = tl.div_rn(weight, tl.zeros_like(weight) + (tl.sum(weight) + 1e-20))
    tl.store(weights + row * K + lane, weight * scaling, mask=used)
    tl.store(ids + row * K + lane, chosen.to(tl.int64), mask=used)


@triton.jit
def limit(
    scores, G: tl.constexpr, KEPT: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Remove the experts of rejected groups; the margin between groups."""
    if KEPT == G:
        return scores, float("inf")
    slot = tl.arange(0, BLOCK_S)[None, :]
    first = tl.max(scores, 1)
    at = tl.min(tl.where(scores == first[:, None], slot, NOWHERE), 1)
    second = tl.max(tl.where(slot == at[:, None], REMOVED, scores), 1)
    g = tl.arange(0, BLOCK_G)
    groups = tl.where(g < G, ordered(number(first) + number(second)), REMOVED)
    worst = REMOVED
    for _ in range(KEPT):
        groups, worst, _group = take(groups, g)
    margin = number(worst) - number(tl.max(groups))
    return tl.where((groups == REMOVED)[:, None], scores, REMOVED), margin


@triton.jit
def take(scores, code):
    """Remove the best score, of equal ones that with the lowest code; its value and code."""
    best = tl.max(scores)
    at = tl.min(tl.where(scores == best, code, NOWHERE))
    return tl.where(code == at, REMOVED, scores), best, at


@triton.jit
def sigmoid(z):
    """By torch's formula and rounding; tl.sigmoid approximates exponential and division."""
    return tl.div_rn(1.0, 1.0 + libdevice.exp(-z.to(tl.float32)))


@triton.jit
def ordered(x):
    """float32 as int32 of the same order; its own inverse on bits."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def number(bits):
    """The float32 that `ordered` made an integer of."""
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
