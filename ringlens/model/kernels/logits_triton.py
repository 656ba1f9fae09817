"""Triton kernel: router logits of few tokens in float32, from weights read as they lie.

Torch writes the weights out in float32 first, which takes longer than to read them.

Shape letters: N tokens, D hidden size, E experts.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

EXPERTS = 4
"""Experts of a program: a router of 256 takes half of an H200's multiprocessors."""

WIDTH = 1024
"""Numbers of a row that a program holds at a time."""


def router_logits(hidden_ND: Tensor, weight_ED: Tensor) -> Tensor:
    """Products of hidden states and a router's weights, summed in float32 [N, E]."""
    (N, D), E = hidden_ND.shape, len(weight_ED)
    logits_NE = torch.empty(N, E, dtype=torch.float32, device=hidden_ND.device)
    with torch.cuda.device_of(hidden_ND):
        _logits[(N, triton.cdiv(E, EXPERTS))](
            hidden_ND,
            weight_ED,
            logits_NE,
            hidden_ND.stride(0),
            weight_ED.stride(0),
            E,
            D=D,
            EXPERTS=EXPERTS,
            BLOCK=min(triton.next_power_of_2(D), WIDTH),
            num_warps=4,
        )
    return logits_NE


@triton.jit
def _logits(
    hidden,
    weight,
    logits,
    stride_N,
    stride_E,
    E,
    D: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * EXPERTS + tl.arange(0, EXPERTS)
    sums = tl.zeros([EXPERTS, BLOCK], tl.float32)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        x = tl.load(hidden + n * stride_N + d, mask=d < D, other=0.0).to(tl.float32)
        inside = (e < E)[:, None] & (d < D)[None, :]
        at = weight + e[:, None] * stride_E + d[None, :]
        sums += tl.load(at, mask=inside, other=0.0).to(tl.float32) * x[None, :]
    tl.store(logits + n * E + e, tl.sum(sums, 1), mask=e < E)
