"""Triton kernels: what is recorded of rows, from one reading of them.

Shape letters: S rows, N tokens, D hidden size.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


def norms_and_peaks(rows_SD: Tensor) -> Tensor:
    """What `ringlens.model.kernels.rows.norms_and_peaks` gives."""
    S, D = rows_SD.shape
    found_2S = torch.empty(2, S, dtype=torch.float32, device=rows_SD.device)
    if S:
        with torch.cuda.device_of(rows_SD):
            _norms[(S,)](rows_SD.contiguous(), found_2S, S, D, BLOCK=_block(D))
    return found_2S


def products(before_ND: Tensor, added_ND: Tensor, routed_ND: Tensor) -> Tensor:
    """What `ringlens.model.kernels.rows.products` gives, of rows."""
    N, D = before_ND.shape
    found_3N = torch.empty(3, N, dtype=torch.float32, device=before_ND.device)
    if N:
        given = (x.contiguous() for x in (before_ND, added_ND, routed_ND))
        with torch.cuda.device_of(before_ND):
            _products[(N,)](*given, found_3N, N, D, BLOCK=_block(D))
    return found_3N


def _block(width: int) -> int:
    return min(triton.next_power_of_2(width), BLOCK)


@triton.jit(do_not_specialize=["S"])
def _norms(rows, found, S, D, BLOCK: tl.constexpr):
    s = tl.program_id(0).to(tl.int64)
    squares = tl.zeros([BLOCK], tl.float32)
    peaks = tl.zeros([BLOCK], tl.float32)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        x = tl.load(rows + s * D + d, mask=d < D, other=0.0).to(tl.float32)
        squares += x * x
        peaks = tl.maximum(peaks, tl.abs(x))
    norm = tl.sqrt(tl.sum(squares))
    tl.store(found + s, norm)
    # The largest loses NaN, the norm does not.
    tl.store(found + S + s, tl.where(norm == norm, tl.max(peaks), norm))


@triton.jit(do_not_specialize=["N"])
def _products(before, added, routed, found, N, D, BLOCK: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    hh = tl.zeros([BLOCK], tl.float32)
    hr = tl.zeros([BLOCK], tl.float32)
    rr = tl.zeros([BLOCK], tl.float32)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        a = tl.load(before + n * D + d, mask=d < D, other=0.0).to(tl.float32)
        b = tl.load(added + n * D + d, mask=d < D, other=0.0).to(tl.float32)
        h = (a + b).to(before.dtype.element_ty).to(tl.float32)
        r = tl.load(routed + n * D + d, mask=d < D, other=0.0).to(tl.float32)
        hh += h * h
        hr += h * r
        rr += r * r
    tl.store(found + n, tl.sum(hh))
    tl.store(found + N + n, tl.sum(hr))
    tl.store(found + 2 * N + n, tl.sum(rr))
