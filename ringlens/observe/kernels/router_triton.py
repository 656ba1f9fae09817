"""Triton kernel: the router record of a token in one reading of its logits.

A program, one warp for up to 256 experts, holds one token's scores in registers and takes the best
out of them again and again, as a router's choice does (`ringlens.model.kernels.choice_triton`).

Shape letters: N tokens, E experts, k experts a token, G groups, S experts of a group.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ringlens.model.kernels.choice_triton import (
    REMOVED,
    limit,
    number,
    ordered,
    sigmoid,
    take,
)
from ringlens.model.router_rule import RouterRule
from ringlens.observe.kernels.router import RouterRecord, has_kernel


def record_rows(
    logits_NE: Tensor, weights_Nk: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule
) -> RouterRecord:
    """The record that `ringlens.observe.kernels.router.torch_record` gives, from one kernel.

    Raises:
        ValueError: It has no such rule.
    """
    if not has_kernel(rule):
        raise ValueError(f"this kernel does not compute {rule}: use torch_record")
    (N, k), E = ids_Nk.shape, rule.experts
    ids_2Nk = ids_Nk.new_empty(2, N, k, dtype=torch.int64)
    numbers_2Nk = logits_NE.new_empty(2, N, k, dtype=torch.float32)
    flips_2Nk = ids_Nk.new_empty(2, N, k, dtype=torch.bool)
    numbers_3N = logits_NE.new_empty(3, N, dtype=torch.float32)
    same_N = ids_Nk.new_empty(N, dtype=torch.bool)
    block_G = triton.next_power_of_2(rule.groups)
    block_S = triton.next_power_of_2(E // rule.groups)
    if N:
        with torch.cuda.device_of(logits_NE):
            _record[(N,)](
                logits_NE.contiguous(),
                weights_Nk.contiguous(),
                ids_Nk.contiguous(),
                bias_E.to(logits_NE.device, torch.float32).contiguous(),
                ids_2Nk,
                numbers_2Nk,
                flips_2Nk,
                numbers_3N,
                same_N,
                N,
                K=k,
                G=rule.groups,
                S=E // rule.groups,
                KEPT=rule.groups_kept,
                BLOCK_K=triton.next_power_of_2(k),
                BLOCK_G=block_G,
                BLOCK_S=block_S,
                num_warps=min(max(block_G * block_S // 256, 1), 8),
            )
    return RouterRecord(
        expert_ids_Nk=ids_2Nk[0],
        weights_Nk=numbers_2Nk[0],
        affinities_Nk=numbers_2Nk[1],
        margin_N=numbers_3N[0],
        group_margin_N=numbers_3N[1],
        bias_flips_Nk=flips_2Nk[0],
        unlimited_ids_Nk=ids_2Nk[1],
        group_flips_Nk=flips_2Nk[1],
        entropy_N=numbers_3N[2],
        same_N=same_N,
    )


@triton.jit(do_not_specialize=["N"])  # or numbers of tokens would compile kernels anew
def _record(
    logits,
    weights,
    ids,
    bias,
    ids_2Nk,
    numbers_2Nk,
    flips_2Nk,
    numbers_3N,
    same_N,
    N,
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
    # Experts by group, [BLOCK_G, BLOCK_S]; what pads a block has affinity 0 and is no candidate.
    g, s = tl.arange(0, BLOCK_G)[:, None], tl.arange(0, BLOCK_S)[None, :]
    expert, real = g * S + s, (g < G) & (s < S)
    affinity = sigmoid(tl.load(logits + expert, mask=real, other=-float("inf")))
    score = affinity + tl.load(bias + expert, mask=real, other=0.0)
    unlimited = tl.where(real, ordered(score), REMOVED)
    unbiased = tl.where(real, ordered(affinity), REMOVED)

    share = affinity / tl.sum(affinity)
    entropy = tl.sum(tl.where(share == 0, 0.0, -share * tl.log(share)))
    tl.store(numbers_3N + 2 * N.to(tl.int64) + row, entropy)

    limited, group_margin = limit(unlimited, G, KEPT, BLOCK_G, BLOCK_S)
    unbiased = limit(unbiased, G, KEPT, BLOCK_G, BLOCK_S)[0]
    tl.store(numbers_3N + N.to(tl.int64) + row, group_margin)

    # From here on a flat row. Every expert carries its id and whether the group limit rejects it.
    code = expert * 2 + ((limited == REMOVED) & real).to(tl.int32)
    code = tl.reshape(code, [BLOCK_G * BLOCK_S])
    limited = tl.reshape(limited, [BLOCK_G * BLOCK_S])
    unlimited = tl.reshape(unlimited, [BLOCK_G * BLOCK_S])
    unbiased = tl.reshape(unbiased, [BLOCK_G * BLOCK_S])

    lane = tl.arange(0, BLOCK_K)
    used = lane < K
    weight = tl.load(weights + row * K + lane, mask=used, other=0.0).to(tl.float32)
    chosen = tl.load(ids + row * K + lane, mask=used, other=-1)
    rank = tl.zeros([BLOCK_K], tl.int32)
    again = tl.zeros([BLOCK_K], tl.int32)  # is it chosen again from the logits?
    anyway = tl.zeros([BLOCK_K], tl.int32)  # is it chosen without the bias, too?
    worst = REMOVED
    for j in range(K):
        limited, worst, at = take(limited, code)
        again |= (chosen == at // 2).to(tl.int32)
        unbiased, _, at = take(unbiased, code)
        anyway |= (chosen == at // 2).to(tl.int32)
        unlimited, _, at = take(unlimited, code)
        tl.store(ids_2Nk + (N + row) * K + j, (at // 2).to(tl.int64))
        tl.store(flips_2Nk + (N + row) * K + j, at % 2 == 1)
        other, own = ordered(tl.load(weights + row * K + j).to(tl.float32)), ordered(weight)
        rank += ((other > own) | ((other == own) & (j < lane))).to(tl.int32)

    margin = float("inf")
    if K < KEPT * S:
        margin = number(worst) - number(tl.max(limited))
    tl.store(numbers_3N + row, margin)
    tl.store(same_N + row, tl.sum(tl.where(used, 1 - again, 0)) == 0)
    # An id that is no expert's is refused later, as not the same; here it must read nothing.
    is_expert = used & (chosen >= 0) & (chosen < G * S)
    z = tl.load(logits + chosen, mask=is_expert, other=float("nan"))
    to = row * K + rank
    tl.store(ids_2Nk + to, chosen, mask=used)
    tl.store(numbers_2Nk + to, weight, mask=used)
    tl.store(numbers_2Nk + N.to(tl.int64) * K + to, sigmoid(z), mask=used)
    tl.store(flips_2Nk + to, anyway == 0, mask=used)
