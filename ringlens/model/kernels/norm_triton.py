"""Triton kernel: a root-mean-square norm in one launch, where torch takes eight.

Shape letters: N rows, H parts of a row that are normalised each by itself, D width of a part.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice


def rms_norm(x_NHD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Divide the last dimension by its root mean square, and weigh it; rounded where torch rounds.

    Args:
        x_NHD: Numbers whose last dimension lies without gaps.
        weight_D: Weights, of the same dtype.
        eps: Added to the mean square.
    """
    N, H, D = x_NHD.shape
    found_NHD = torch.empty(N, H, D, dtype=x_NHD.dtype, device=x_NHD.device)
    block = triton.next_power_of_2(D)
    with torch.cuda.device_of(x_NHD):
        _norm[(N, H)](
            x_NHD,
            weight_D,
            found_NHD,
            x_NHD.stride(0),
            x_NHD.stride(1),
            eps,
            D=D,
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 16),
        )
    return found_NHD


@triton.jit
def _norm(x, weight, found, stride_N, stride_H, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    n, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BLOCK)
    inside = d < D
    wide = tl.load(x + n * stride_N + h * stride_H + d, mask=inside, other=0.0).to(tl.float32)
    scale = libdevice.rsqrt(tl.sum(wide * wide) * (1.0 / D) + eps)
    normed = (wide * scale).to(found.dtype.element_ty).to(tl.float32)
    w = tl.load(weight + d, mask=inside, other=0.0).to(tl.float32)
    to = found + (n * tl.num_programs(1) + h) * D
    tl.store(to + d, (normed * w).to(found.dtype.element_ty), mask=inside)
