"""Triton kernels: causal attention whose pass also gives entropy, log-sum-exp and two weights.

An ordinary flash-attention forward keeps, for each query, the running maximum m of its scores and
l = Σ_j exp(x_j − m). One more sum, a = Σ_j exp(x_j − m)·(x_j − m), gives the entropy log l − a/l.
Scores are in base 2 here (x·log₂e), because the hardware's exponential is. The same kernel without
values gives the statistics alone, for keys and queries that are cached.

Shape letters: B batch, H heads, G kv heads, T queries, S keys, C head dimension; of a program,
M queries and N keys at a time.
"""

# Kernels carry no annotations but constexpr; l is the name of that sum in the literature.
# ruff: noqa: ANN001, ANN202, E741
# mypy: disallow-untyped-defs=False

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Stands for −∞ where −∞ itself would turn 0 · x into NaN.
MASKED = tl.constexpr(-1.0e30)
LN2 = tl.constexpr(0.6931471805599453)


@dataclass(frozen=True)
class Tiling:
    """How a kernel is cut.

    Attributes:
        queries: Queries of a program.
        keys: Keys at a time.
        warps: Warps of a program.
        stages: Blocks of keys in flight.
        registers: Most registers a thread, None for the compiler's choice.
        descriptors: Load keys and values by the bulk copy engine.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None
    descriptors: bool = False


# Fixed, not tuned at run time: another cut rounds differently, and outputs should not depend on
# which cut won a race on the day. benchmarks/bench_attention.py compares them.
LONG = Tiling(128, 64, 8, 2, registers=128, descriptors=True)
LONG_STATISTICS = Tiling(128, 64, 8, 3, registers=128, descriptors=True)
SHORT = Tiling(64, 64, 4, 3)


def attention_with_statistics(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    value_BGSC: Tensor,
    first_B: Tensor | None,
    scaling: float,
    tiling: Tiling | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Causal attention aligned at the last position, and its statistics.

    Args:
        query_BHTC: Queries, bfloat16 or float16.
        key_BGSC: Keys; G divides H, T ≤ S.
        value_BGSC: Values.
        first_B: First key of each row that is no padding; None: key 0.
        scaling: Factor on the scores.
        tiling: How to cut the work, None for the default.
        dtype: dtype of the output, None for the queries'.

    Returns:
        Output [B, T, H, C], 0 in padded rows, and entropy, first weight, previous weight and
        log-sum-exp [B, T, H] float32, NaN there.
    """
    B, H, T, C = query_BHTC.shape
    output_BTHC = query_BHTC.new_empty(B, T, H, C, dtype=dtype)
    found = _launch(query_BHTC, key_BGSC, value_BGSC, output_BTHC, first_B, scaling, tiling)
    return output_BTHC, found


def statistics(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    first_B: Tensor | None,
    scaling: float,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The statistics alone; see :func:`attention_with_statistics`."""
    return _launch(query_BHTC, key_BGSC, None, None, first_B, scaling, tiling)


def _launch(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    output: Tensor | None,
    first_B: Tensor | None,
    scaling: float,
    tiling: Tiling | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, H, T, C = query.shape
    G, S = key.shape[1:3]
    tiling = tiling or _tiling(query, value is not None)
    if tiling.descriptors and not (_describable(key) and (value is None or _describable(value))):
        tiling = replace(tiling, descriptors=False)
    found = query.new_empty(4, B, H, T, dtype=torch.float32)
    first = found.new_zeros(1, dtype=torch.int32) if first_B is None else first_B.int()
    if tiling.descriptors:
        triton.set_allocator(_scratch)
    options: dict[str, Any] = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    if tiling.registers is not None:
        options["maxnreg"] = tiling.registers
    with torch.cuda.device_of(query):
        _forward[(triton.cdiv(T, tiling.queries), B * H)](
            query,
            key,
            key if value is None else value,
            query if output is None else output,
            found,
            first,
            scaling * math.log2(math.e),
            *query.stride()[:3],
            *key.stride()[:3],
            *(key if value is None else value).stride()[:3],
            T,
            S,
            H,
            B * H * T,
            R=H // G,
            C=C,
            BLOCK_C=max(16, triton.next_power_of_2(C)),
            M=tiling.queries,
            N=tiling.keys,
            PADDED=first_B is not None,
            VALUES=value is not None,
            DESCRIPTORS=tiling.descriptors,
            **options,
        )
    entropy, first_weight, previous_weight, logsumexp = found.transpose(2, 3).unbind()
    return entropy, first_weight, previous_weight, logsumexp


def _tiling(query: Tensor, values: bool) -> Tiling:
    if query.shape[2] <= 64 or query.shape[3] > 128:
        return SHORT
    return LONG if values else LONG_STATISTICS


def _describable(x: Tensor) -> bool:
    """Whether the copy engine can load rows of x: it counts in 16 bytes."""
    strides = [stride * x.element_size() % 16 for stride in x.stride()[:3]]
    return not any(strides) and x.stride(3) == 1 and x.data_ptr() % 16 == 0


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, device="cuda", dtype=torch.int8)


@triton.jit(do_not_specialize=["T", "S", "H", "BHT"])  # or lengths would compile kernels anew
def _forward(
    query,
    key,
    value,
    output,
    found,
    first,
    scale,  # of scores in base 2
    query_b,
    query_h,
    query_t,
    key_b,
    key_g,
    key_s,
    value_b,
    value_g,
    value_s,
    T,
    S,
    H,
    BHT,
    R: tl.constexpr,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PADDED: tl.constexpr,
    VALUES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    # The last queries see most keys: they start first.
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * M
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    query += b.to(tl.int64) * query_b + h.to(tl.int64) * query_h
    key += b.to(tl.int64) * key_b + (h // R).to(tl.int64) * key_g
    value += b.to(tl.int64) * value_b + (h // R).to(tl.int64) * value_g
    left = 0
    if PADDED:
        left = tl.load(first + b)

    t = start + tl.arange(0, M)
    c = tl.arange(0, BLOCK_C)
    own = S - T + t  # position of each query's own key
    query_at = query + t.to(tl.int64)[:, None] * query_t + c
    is_query = (t < T)[:, None] & (c < C)
    q = tl.load(query_at, mask=is_query, other=0.0)

    m = tl.full([M], MASKED, tl.float32)
    l = tl.zeros([M], tl.float32)
    a = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, BLOCK_C if VALUES else 1], tl.float32)
    if DESCRIPTORS:
        keys = tl.make_tensor_descriptor(key, [S, C], [key_s, 1], [N, BLOCK_C])
        values = tl.make_tensor_descriptor(value, [S, C], [value_s, 1], [N, BLOCK_C])
    else:
        keys, values = key, value

    # Keys up to `whole` are seen by all queries of the program, from `stop` on by none.
    whole = (S - T + start + 1) // N * N
    stop = tl.minimum(S - T + start + M, S)
    begin = left // N * N
    if PADDED:
        edge = tl.minimum((left + N - 1) // N * N, whole)
        m, l, a, acc = _blocks(
            begin, edge, m, l, a, acc, q, keys, values, own, left, scale, key_s, value_s, S,
            C, BLOCK_C, N, True, VALUES, DESCRIPTORS,
        )  # fmt: skip
        begin = tl.maximum(begin, edge)
    m, l, a, acc = _blocks(
        begin, whole, m, l, a, acc, q, keys, values, own, left, scale, key_s, value_s, S,
        C, BLOCK_C, N, False, VALUES, DESCRIPTORS,
    )  # fmt: skip
    m, l, a, acc = _blocks(
        tl.maximum(begin, whole), stop, m, l, a, acc, q, keys, values, own, left, scale, key_s,
        value_s, S, C, BLOCK_C, N, True, VALUES, DESCRIPTORS,
    )  # fmt: skip

    real = own >= left
    l = tl.where(real, l, 1.0)
    if VALUES:
        acc = tl.where(real[:, None], acc / l[:, None], 0.0)
        output += (b.to(tl.int64) * T * H + h) * C
        output_at = output + t.to(tl.int64)[:, None] * (H * C) + c
        tl.store(output_at, acc.to(output.dtype.element_ty), mask=is_query)

    # Two weights, from two dot products a query outside the loop.
    q = tl.load(query_at, mask=is_query, other=0.0).to(tl.float32)
    k = tl.load(key + key_s.to(tl.int64) * left + c, mask=(c < C) & (left < S), other=0.0)
    first_score = tl.sum(q * k.to(tl.float32)[None, :], 1) * scale
    has_previous = own - 1 >= left
    k = tl.load(
        key + (own - 1).to(tl.int64)[:, None] * key_s + c,
        mask=is_query & has_previous[:, None],
        other=0.0,
    )
    previous_score = tl.sum(q * k.to(tl.float32), 1) * scale
    logsum = m + tl.log2(l)
    nan = float("nan")
    found += tl.program_id(1).to(tl.int64) * T + t
    tl.store(found, tl.where(real, tl.maximum((tl.log2(l) - a / l) * LN2, 0.0), nan), mask=t < T)
    first_weight = tl.exp2(first_score - logsum)
    tl.store(found + BHT, tl.where(real, first_weight, nan), mask=t < T)
    previous_weight = tl.where(has_previous, tl.exp2(previous_score - logsum), 0.0)
    tl.store(found + 2 * BHT, tl.where(real, previous_weight, nan), mask=t < T)
    tl.store(found + 3 * BHT, tl.where(real, logsum * LN2, nan), mask=t < T)


@triton.jit
def _blocks(
    begin, stop, m, l, a, acc, q, keys, values, own, left, scale, key_s, value_s, S,
    C: tl.constexpr, BLOCK_C: tl.constexpr, N: tl.constexpr, MASK: tl.constexpr,
    VALUES: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Take in the keys from ``begin`` to ``stop``; with MASK, each query only those it sees."""
    for start in tl.range(begin, stop, N):
        if DESCRIPTORS:
            k = keys.load([start, 0])
        else:
            k = _rows(keys, start, key_s, S, C, BLOCK_C, N, MASK)
        x = tl.dot(q, k.T, input_precision="ieee")
        if MASK:
            n = start + tl.arange(0, N)
            x = tl.where((n[None, :] <= own[:, None]) & (n[None, :] >= left), x, MASKED)
        top = tl.maximum(m, tl.max(x, 1) * scale)
        x = x * scale - top[:, None]
        p = tl.exp2(x)
        shift = m - top
        shrink = tl.exp2(shift)
        a = (a + l * shift) * shrink + tl.sum(p * x, 1)
        l = l * shrink + tl.sum(p, 1)
        m = top
        if VALUES:
            if DESCRIPTORS:
                v = values.load([start, 0])
            else:
                v = _rows(values, start, value_s, S, C, BLOCK_C, N, MASK)
            acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
    return m, l, a, acc


@triton.jit
def _rows(
    at, start, stride, S,
    C: tl.constexpr, BLOCK_C: tl.constexpr, N: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Rows ``start`` … ``start + N`` of keys or values, [N, BLOCK_C]."""
    n, c = tl.arange(0, N), tl.arange(0, BLOCK_C)
    at += stride.to(tl.int64) * start  # one number; what is a tensor stays the same in the loop
    if MASK:
        return tl.load(
            at + n[:, None] * stride + c, mask=(start + n < S)[:, None] & (c < C), other=0.0
        )
    if BLOCK_C != C:
        return tl.load(at + n[:, None] * stride + c, mask=(c < C)[None, :], other=0.0)
    return tl.load(at + n[:, None] * stride + c)
