"""Head statistics in blocks of queries: exact, for any kernel and mask, without an n × n matrix.

For a query q and visible keys k_j: scores x_j = q·k_j·scaling, log p_j = x_j − log Σ_i exp x_i,
entropy = −Σ_j p_j log p_j.

Shape letters: B batch, H heads, G kv heads, r = H / G, T queries, t queries of a block, S keys,
C head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ringlens.errors import ObservationError

# Scores held at a time: 2**25 float32 are 128 MiB.
MAX_SCORES = 2**25

Mask = Tensor | BlockMask | None


@dataclass(frozen=True)
class HeadStatistics:
    """What the heads of one layer did, [B, T, H] float32; NaN in padded rows."""

    entropy: Tensor
    first_weight: Tensor
    previous_weight: Tensor


def visible_keys(mask: Mask, queries: slice, T: int, S: int, device: torch.device) -> Tensor | None:
    """Which keys the queries of a block see, whatever the kernel's kind of mask.

    Returns:
        bool [B or 1, 1, t, S]; None where every query sees every key.

    Raises:
        ObservationError: The kind of mask is not known.
    """
    if isinstance(mask, BlockMask):
        b, q, k = (torch.arange(n, device=device) for n in (mask.shape[0], T, S))
        zero = torch.zeros((), dtype=torch.long, device=device)
        return mask.mask_mod(b[:, None, None, None], zero, q[queries, None], k).expand(
            len(b), 1, -1, S
        )
    if isinstance(mask, Tensor) and mask.ndim == 4:
        block = mask[:, :1, queries, :S]
        return block if block.dtype == torch.bool else block == 0
    if mask is None and T == 1:
        return None
    if mask is None:  # kernels then align queries and keys at the first position
        q = torch.arange(T, device=device)[queries, None]
        return (torch.arange(S, device=device) <= q)[None, None]
    raise ObservationError(
        f"head statistics do not know an attention mask of {type(mask).__name__} "
        f"{tuple(getattr(mask, 'shape', ()))}. Load the model with attention='sdpa' or 'eager', "
        "or leave 'heads' out of record=."
    )


def head_statistics(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float
) -> HeadStatistics:
    """Entropy and the weights on the first and the previous visible token, per query and head.

    Args:
        query_BHTC: Queries as the kernel gets them.
        key_BGSC: Keys as the kernel gets them, cached ones included; G divides H.
        mask: The kernel's mask: bool or additive [B, 1, T, S], a BlockMask, or None for causal.
        scaling: Factor on the scores.

    Memory is O(t·S) with blocks of t queries that keep within ``MAX_SCORES`` scores.
    """
    blocks = list(_blocks(query_BHTC, key_BGSC, mask, scaling))
    return HeadStatistics(*(torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)))


def _blocks(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    B, H, T, _ = query_BHTC.shape
    S, device = key_BGSC.shape[2], query_BHTC.device
    key_BGCS = key_BGSC.float().transpose(2, 3)
    size = max(1, MAX_SCORES // (B * H * S))
    for start in range(0, T, size):
        queries = slice(start, min(start + size, T))
        query = query_BHTC[:, :, queries].float() * scaling
        query = query.unflatten(1, (key_BGSC.shape[1], -1))
        scores_BHtS = (query @ key_BGCS.unsqueeze(2)).flatten(1, 2)
        seen = visible_keys(mask, queries, T, S, device)
        yield _statistics(scores_BHtS, seen)


def _statistics(scores_BHtS: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, first and previous weight [B, t, H] of score rows."""
    if seen is not None:
        scores_BHtS = scores_BHtS.masked_fill(~seen, -torch.inf)
    logp_BHtS = scores_BHtS.log_softmax(dim=-1)
    p_BHtS = logp_BHtS.exp()
    if seen is not None:
        logp_BHtS = logp_BHtS.masked_fill(~seen, 0.0)  # 0 · −inf would be NaN
    entropy = -(p_BHtS * logp_BHtS).sum(dim=-1)
    if seen is None:
        first = p_BHtS[..., 0]
        previous = p_BHtS[..., -2] if p_BHtS.shape[-1] > 1 else torch.zeros_like(first)
    else:
        first, previous = _picked(p_BHtS, seen)
    return entropy.transpose(1, 2), first.transpose(1, 2), previous.transpose(1, 2)


def _picked(p_BHtS: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [B, H, t] on the first visible key, and on the last but one (0 without one)."""
    S = p_BHtS.shape[-1]
    first = seen.byte().argmax(dim=-1, keepdim=True)
    own = S - 1 - seen.flip(-1).byte().argmax(dim=-1, keepdim=True)
    rows = p_BHtS.shape[:3]
    first_p = p_BHtS.gather(3, first.expand(*rows, 1))[..., 0]
    previous_p = p_BHtS.gather(3, (own - 1).clamp(min=0).expand(*rows, 1))[..., 0]
    alone = (own <= first)[..., 0].expand(rows)
    return first_p, previous_p.masked_fill(alone, 0.0)
