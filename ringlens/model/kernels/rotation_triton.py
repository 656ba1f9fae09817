"""Triton kernel: the rotation of queries and keys in one launch, where torch takes twelve.

Shape letters: B batch, T tokens, H heads, G kv heads, C head dimension, R rotated dimensions.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def rotated(
    query_BHTC: Tensor, key_BGTC: Tensor, cos_BTR: Tensor, sin_BTR: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys with their first R dimensions rotated, rounded where torch rounds.

    Args:
        query_BHTC: Queries, whose last dimension lies without gaps.
        key_BGTC: Keys, likewise.
        cos_BTR: Cosines, of the same dtype; of one row where they are those of all.
        sin_BTR: Sines, likewise.
    """
    B, H, T, C = query_BHTC.shape
    G, R = key_BGTC.shape[1], cos_BTR.shape[-1]
    query = torch.empty_like(query_BHTC, memory_format=torch.contiguous_format)
    key = torch.empty_like(key_BGTC, memory_format=torch.contiguous_format)
    of_row = 0 if cos_BTR.shape[0] == 1 else T * R
    with torch.cuda.device_of(query_BHTC):
        _rotate[(B * T, H + G)](
            query_BHTC,
            key_BGTC,
            cos_BTR.contiguous(),
            sin_BTR.contiguous(),
            query,
            key,
            T,
            of_row,
            *query_BHTC.stride()[:3],
            *key_BGTC.stride()[:3],
            H=H,
            G=G,
            C=C,
            R=R,
            BLOCK=triton.next_power_of_2(C),
            num_warps=1,
            enable_fp_fusion=False,  # products are rounded before they are added
        )
    return query, key


@triton.jit
def _rotate(
    query,
    key,
    cos,
    sin,
    query_to,
    key_to,
    T,
    of_row,
    query_B,
    query_H,
    query_T,
    key_B,
    key_G,
    key_T,
    H: tl.constexpr,
    G: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b, t = tl.program_id(0).to(tl.int64) // T, tl.program_id(0).to(tl.int64) % T
    head = tl.program_id(1)
    if head < H:
        _turn(
            query + b * query_B + head * query_H + t * query_T,
            query_to + ((b * H + head) * T + t) * C,
            cos + b * of_row + t * R,
            sin + b * of_row + t * R,
            C,
            R,
            BLOCK,
        )
    else:
        _turn(
            key + b * key_B + (head - H) * key_G + t * key_T,
            key_to + ((b * G + head - H) * T + t) * C,
            cos + b * of_row + t * R,
            sin + b * of_row + t * R,
            C,
            R,
            BLOCK,
        )


@triton.jit
def _turn(x, to, cos, sin, C: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.arange(0, BLOCK)
    turned = c < R
    rounded = to.dtype.element_ty
    own = tl.load(x + c, mask=c < C, other=0.0)
    other = tl.load(x + tl.where(c < R // 2, c + R // 2, c - R // 2), mask=turned, other=0.0)
    other = tl.where(c < R // 2, -other, other)
    by_cos = own.to(tl.float32) * tl.load(cos + c, mask=turned, other=0.0).to(tl.float32)
    by_sin = other.to(tl.float32) * tl.load(sin + c, mask=turned, other=0.0).to(tl.float32)
    both = by_cos.to(rounded).to(tl.float32) + by_sin.to(rounded).to(tl.float32)
    tl.store(to + c, tl.where(turned, both.to(rounded), own), mask=c < C)
