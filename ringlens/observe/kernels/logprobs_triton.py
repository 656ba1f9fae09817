"""Triton kernel: log-probability and entropy of a row of logits in one reading of it.

As in attention_triton.py, a row keeps the running maximum m, l = Σ exp(z − m) and
a = Σ exp(z − m)·(z − m); then log Σ exp z = m + log l and the entropy is log l − a/l. Scores are in
base 2 inside.

Shape letters: N rows, V vocabulary.
"""

# Kernels carry no annotations but constexpr; l is the name of that sum in the literature.
# ruff: noqa: ANN001, ANN202, E741
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Stands for −∞ where −∞ itself would turn 0 · x into NaN.
MASKED = tl.constexpr(-1.0e30)
LN2 = tl.constexpr(0.6931471805599453)
BLOCK = 4096


def surprise_rows(logits_NV: Tensor, token_ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's token, and the row's entropy: float32 [N], in nats."""
    N, V = logits_NV.shape
    found_2N = logits_NV.new_empty(2, N, dtype=torch.float32)
    with torch.cuda.device_of(logits_NV):
        _rows[(N,)](logits_NV, token_ids_N, found_2N, logits_NV.stride(0), N, V, BLOCK)
    return found_2N[0], found_2N[1]


@triton.jit
def _rows(logits, token_ids, found, stride, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    m = tl.full([BLOCK], MASKED, tl.float32)
    l = tl.zeros([BLOCK], tl.float32)
    a = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(logits + v, mask=v < V, other=-float("inf")).to(tl.float32) / LN2
        z = tl.maximum(z, MASKED)
        top = tl.maximum(m, z)
        shift, x = m - top, z - top
        shrink, p = tl.exp2(shift), tl.exp2(x)
        a = (a + l * shift) * shrink + p * x
        l = l * shrink + p
        m = top
    # Each lane has seen its own share of the row: bring them together.
    top = tl.max(m, 0)
    shift = m - top
    shrink = tl.exp2(shift)
    total = tl.sum(l * shrink, 0)
    mean = tl.sum((a + l * shift) * shrink, 0) / total
    z = tl.load(logits + tl.load(token_ids + row)).to(tl.float32)
    tl.store(found + row, z - (top + tl.log2(total)) * LN2)
    tl.store(found + N + row, tl.maximum((tl.log2(total) - mean) * LN2, 0.0))
