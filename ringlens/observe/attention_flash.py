"""Causal flash attention that also gives its log-sum-exp, and head statistics from it.

The entropy of a row is L − q·(Σ_j p_j k_j)·scaling: attention with the keys as values. torch's
public function does not return L, so its kernels are called by name.

Shape letters: B batch, H heads, G kv heads, r = H / G, T queries, t queries of a block, S keys,
C head dimension, V value dimension.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Entries of the causal mask of a block of queries on the CPU: 1 MiB, which stays in the cache.
MAX_MASK = 2**18


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
    value_BGSV: Tensor,
    first_B: Tensor | None,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Causal attention aligned at the last position, from the keys ``first_B`` on.

    Returns:
        Output [B, H, T, V] and log-sum-exp [B, H, T]; NaN in rows before ``first_B``.
    """
    kernel = _cpu if query_BHTC.device.type == "cpu" else _cuda
    if first_B is None:
        return kernel(query_BHTC, key_BGSC, value_BGSV, scaling)
    outputs, sums = [], []
    past = key_BGSC.shape[2] - query_BHTC.shape[2]
    for b, first in enumerate(first_B.tolist()):  # each row without its padding
        row = slice(b, b + 1)
        padded = max(0, first - past)
        query, key, value = query_BHTC[row, :, padded:], key_BGSC[row], value_BGSV[row]
        if not query.shape[2]:
            query, padded = query_BHTC[row, :, -1:], query_BHTC.shape[2]
            output, logsumexp = kernel(query, key, value, scaling)
            output, logsumexp = output[:, :, :0], logsumexp[:, :, :0]
        else:
            output, logsumexp = kernel(query, key[:, :, first:], value[:, :, first:], scaling)
        outputs.append(F.pad(output, (0, 0, padded, 0), value=torch.nan))
        sums.append(F.pad(logsumexp, (padded, 0), value=torch.nan))
    return torch.cat(outputs), torch.cat(sums)


def _cpu(
    query_BHTC: Tensor, key_BGSC: Tensor, value_BGSC: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """In float32 or float64; the r heads of a kv head are stacked into rows of one product."""
    B, H, T, C = query_BHTC.shape
    G, S = key_BGSC.shape[1:3]
    kind = torch.float64 if query_BHTC.dtype == torch.float64 else torch.float32
    query, key, value = (x.to(kind) for x in (query_BHTC, key_BGSC, value_BGSC))
    size = max(1, MAX_MASK // (H // G * S))
    outputs, sums = [], []
    for start in range(0, T, size):
        t = min(size, T - start)
        seen = S - T + start + t
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[:, :, start : start + t].reshape(B, G, -1, C),
            key[:, :, :seen],
            value[:, :, :seen],
            attn_mask=_lower_right(H // G, t, seen, kind) if t > 1 else None,
            scale=scaling,
        )
        outputs.append(output.reshape(B, H, t, C))
        sums.append(logsumexp.reshape(B, H, t))
    if len(sums) == 1:
        return outputs[0], sums[0]
    return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)


def _lower_right(r: int, t: int, S: int, kind: torch.dtype) -> Tensor:
    """Additive mask [r·t, S] under which the last of t queries sees all S keys."""
    mask_rtS = torch.zeros(r, t, S, dtype=kind)
    mask_rtS[:, :, S - t :] = torch.full((t, t), -torch.inf, dtype=kind).triu_(1)
    return mask_rtS.view(r * t, S)


def _cuda(
    query_BHTC: Tensor, key_BGSC: Tensor, value_BGSC: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """In 16 bits. Of this operator, unlike the public one, "causal" aligns at the last position."""
    output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention(
        query_BHTC, key_BGSC, value_BGSC, 0.0, query_BHTC.shape[2] > 1, False, scale=scaling
    )[:2]
    return output, logsumexp[:, :, : query_BHTC.shape[2]]
