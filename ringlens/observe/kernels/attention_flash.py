"""Causal flash attention that also gives its log-sum-exp, and head statistics from it.

The entropy of a row is L − q·(Σ_j p_j k_j)·scaling: attention with the keys as values. torch's
public function does not return L, so its kernels are called by name.

Shape letters: B batch, H heads, G kv heads, r = H / G, T queries, t queries of a block, S keys,
C head dimension, V value dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Entries of a block's causal mask on the CPU. Tried on one core: smaller blocks cost more calls,
# larger ones compute more scores above the diagonal.
MAX_MASK = 2**16


def has_flash(query: Tensor) -> bool:
    """Whether torch has a kernel here that returns the log-sum-exp."""
    if query.device.type == "cpu":
        return True
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256


def flash_statistics(
    query_BHTC: Tensor, key_BGSC: Tensor, first_B: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Entropy and log-sum-exp [B, T, H]; NaN in rows before ``first_B``."""
    mean_key, logsumexp_BHT = flash_attention(query_BHTC, key_BGSC, key_BGSC, first_B, scaling)
    # Rounding mean_key to 16 bits, as the kernel does on CUDA, bounds how exact the entropy is.
    mean_score = (mean_key.to(logsumexp_BHT.dtype) * query_BHTC).sum(dim=-1) * scaling
    entropy_BHT = (logsumexp_BHT - mean_score).clamp(min=0.0)  # rounding can leave it below
    return entropy_BHT.transpose(1, 2), logsumexp_BHT.transpose(1, 2)


def flash_attention(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    value_BGSC: Tensor,
    first_B: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Causal attention aligned at the last position, from the keys ``first_B`` on.

    Returns:
        Output [B, H, T, C] and log-sum-exp [B, H, T]; NaN in rows before ``first_B``.
    """
    if query_BHTC.device.type == "cpu":
        return _cpu(query_BHTC, key_BGSC, value_BGSC, first_B, scaling)
    if first_B is None:
        return _cuda(query_BHTC, key_BGSC, value_BGSC, scaling)
    T, past = query_BHTC.shape[2], key_BGSC.shape[2] - query_BHTC.shape[2]
    output_BHTC = torch.full_like(query_BHTC, torch.nan)
    logsumexp_BHT = query_BHTC.new_full(query_BHTC.shape[:3], torch.nan, dtype=torch.float32)
    for b, first in enumerate(first_B.tolist()):  # the kernel knows no padding: row by row
        row, real = slice(b, b + 1), slice(max(0, first - past), T)
        if first < past + T:
            output_BHTC[row, :, real], logsumexp_BHT[row, :, real] = _cuda(
                query_BHTC[row, :, real],
                key_BGSC[row, :, first:],
                value_BGSC[row, :, first:],
                scaling,
            )
    return output_BHTC, logsumexp_BHT


def _cpu(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    value_BGSC: Tensor,
    first_B: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """In float32 or float64, in blocks of queries against the keys that they see."""
    B, H, T, C = query_BHTC.shape
    G, S = key_BGSC.shape[1:3]
    kind = torch.float64 if query_BHTC.dtype == torch.float64 else torch.float32
    query, key, value = (x.to(kind) for x in (query_BHTC, key_BGSC, value_BGSC))
    if T == 1:  # the kernel works row by row of queries: give it one with a row for each head
        query = query.view(B, G, -1, C)
    size = max(1, MAX_MASK // S)
    outputs, sums = [], []
    for start in range(0, T, size):
        t = min(size, T - start)
        seen = S - T + start + t
        queries = query if T == 1 else query[:, :, start : start + t]
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries,
            key[:, :, :seen],
            value[:, :, :seen],
            attn_mask=_mask(first_B, t, seen, queries.shape[2], kind),
            scale=scaling,
        )
        outputs.append(output.reshape(B, H, t, C))
        sums.append(logsumexp.reshape(B, H, t))
    whole = len(sums) == 1
    output_BHTC = outputs[0] if whole else torch.cat(outputs, dim=2)
    logsumexp_BHT = sums[0] if whole else torch.cat(sums, dim=2)
    if first_B is not None:
        padded_BT = torch.arange(S - T, S) < first_B[:, None]
        logsumexp_BHT = logsumexp_BHT.masked_fill(padded_BT[:, None], torch.nan)
        output_BHTC = output_BHTC.masked_fill(padded_BT[:, None, :, None], torch.nan)
    return output_BHTC, logsumexp_BHT


def _mask(first_B: Tensor | None, t: int, S: int, rows: int, kind: torch.dtype) -> Tensor | None:
    """Additive mask [B or 1, 1, rows, S] for the last t of S positions; None: all is seen."""
    causal = None
    if t > 1:
        causal = torch.full((t, S), -torch.inf, dtype=kind).triu_(S - t + 1)
    if first_B is None:
        return causal
    left = torch.zeros(len(first_B), 1, 1, S, dtype=kind)
    left.masked_fill_(torch.arange(S) < first_B[:, None, None, None], -torch.inf)
    return left.expand(-1, 1, rows, S) if causal is None else left + causal


def _cuda(
    query_BHTC: Tensor, key_BGSC: Tensor, value_BGSC: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """In 16 bits. Of this operator, unlike the public one, "causal" aligns at the last position."""
    output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention(
        query_BHTC, key_BGSC, value_BGSC, 0.0, query_BHTC.shape[2] > 1, False, scale=scaling
    )[:2]
    return output, logsumexp[:, :, : query_BHTC.shape[2]]
