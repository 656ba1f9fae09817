"""Where heads look: every weight, at fixed offsets, mass on spans, the heaviest positions.

Shape letters: B batch, H heads, h chosen heads, G kv heads, T queries, t queries of a block,
S keys, C head dimension, J spans, k positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ringlens.observe.kernels.attention import (
    MAX_SCORES,
    Causal,
    Mask,
    as_causal,
    block_scores,
    has_triton,
    visible_keys,
    weight_back,
)
from ringlens.observe.kernels.attention_flash import flash_attention, has_flash


def offset_weights(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    mask: Mask,
    scaling: float,
    logsumexp_BTH: Tensor,
    offsets: Sequence[int],
) -> Tensor:
    """Weight on the key ``offset`` before the query's own, for each offset.

    Args:
        query_BHTC: Queries.
        key_BGSC: Keys.
        mask: As for :func:`ringlens.observe.kernels.attention.head_statistics`.
        scaling: Factor on the scores.
        logsumexp_BTH: log Σ exp of the scores, as ``head_statistics`` gives it.
        offsets: 0 for the query's own position, 1 for the one before it, …

    Returns:
        [B, T, H, len(offsets)]; 0 where there is no such key or it is not seen, NaN in padded rows.

    Raises:
        ObservationError: The kind of mask is not known.
    """
    mask, key_BGSC = as_causal(query_BHTC, key_BGSC, mask)
    if isinstance(mask, Causal):
        parts = [
            weight_back(query_BHTC, key_BGSC, mask.first_B, scaling, logsumexp_BTH, offset)
            for offset in offsets
        ]
        return torch.stack(parts, dim=-1)
    S, blocks = key_BGSC.shape[2], []
    for queries, scores_BHtS, seen in _blocks(query_BHTC, key_BGSC, mask, scaling):
        p_BHtS = (scores_BHtS - logsumexp_BTH[:, queries].transpose(1, 2)[..., None]).exp()
        own = S - 1 - seen.flip(-1).byte().argmax(dim=-1, keepdim=True)
        index = own - torch.tensor(offsets, device=own.device)
        picked = p_BHtS.gather(3, index.clamp(min=0).expand(*p_BHtS.shape[:3], -1))
        blocks.append(picked.masked_fill(index < 0, 0.0).transpose(1, 2))
    weights = torch.cat(blocks, dim=1)
    return weights.masked_fill(logsumexp_BTH.isnan()[..., None], torch.nan)


def segment_mass(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float, spans: Tensor
) -> Tensor:
    """Mass of the weights on spans of key positions (steps of a trace, say).

    Fused attention with V[k, j] = 1 where key k is in span j, C spans at a time.

    Args:
        query_BHTC: Queries.
        key_BGSC: Keys.
        mask: As for :func:`ringlens.observe.kernels.attention.head_statistics`.
        scaling: Factor on the scores.
        spans: Start and stop of each span, integer [J, 2] or [B, J, 2]; spans may overlap.

    Returns:
        [B, T, H, J], NaN in padded rows. In 16 bits on CUDA exact to about 0.001 with Triton, to
        0.004 without.

    Raises:
        ObservationError: The kind of mask is not known.
    """
    mask, key_BGSC = as_causal(query_BHTC, key_BGSC, mask)
    B, S, C = len(query_BHTC), key_BGSC.shape[2], query_BHTC.shape[3]
    spans = spans.to(key_BGSC.device).expand(B, -1, 2)
    position = torch.arange(S, device=spans.device)[:, None]
    parts = []
    for few in spans.split(C, dim=1):
        inside_BSj = (position >= few[:, None, :, 0]) & (position < few[:, None, :, 1])
        parts.append(_mass(query_BHTC, key_BGSC, mask, scaling, inside_BSj))
    if not parts:
        return query_BHTC.new_zeros(B, query_BHTC.shape[2], query_BHTC.shape[1], 0)
    return torch.cat(parts, dim=-1)


def _mass(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float, inside_BSj: Tensor
) -> Tensor:
    """Mass [B, T, H, j] on at most C sets of keys."""
    C, j = query_BHTC.shape[3], inside_BSj.shape[2]
    if not isinstance(mask, Causal) or not has_flash(query_BHTC):
        blocks = []
        for _, scores_BHtS, _ in _blocks(query_BHTC, key_BGSC, mask, scaling):
            p_BHtS = scores_BHtS.softmax(dim=-1)  # NaN where nothing is seen
            blocks.append((p_BHtS @ inside_BSj.to(p_BHtS.dtype).unsqueeze(1)).transpose(1, 2))
        return torch.cat(blocks, dim=1)
    inside_BSC = F.pad(inside_BSj, (0, C - j))
    value_BGSC = inside_BSC.unsqueeze(1).expand(key_BGSC.shape)
    if not has_triton(query_BHTC.device, query_BHTC.dtype):
        value_BGSC = value_BGSC.to(query_BHTC.dtype)
        mass, _ = flash_attention(query_BHTC, key_BGSC, value_BGSC, mask.first_B, scaling)
        return mass[..., :j].transpose(1, 2)
    from ringlens.observe.kernels.attention_triton import attention_with_statistics

    value_BGSC = inside_BSC.half().unsqueeze(1).expand(key_BGSC.shape)  # finer than bfloat16
    mass_BTHC, (entropy, *_) = attention_with_statistics(
        query_BHTC, key_BGSC, value_BGSC, mask.first_B, scaling, dtype=torch.float32
    )
    return mass_BTHC[..., :j].masked_fill(entropy.isnan()[..., None], torch.nan)


def top_positions(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    mask: Mask,
    scaling: float,
    k: int,
    heads: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The k key positions with most weight, heaviest first, and their weights.

    Args:
        query_BHTC: Queries.
        key_BGSC: Keys.
        mask: As for :func:`ringlens.observe.kernels.attention.head_statistics`.
        scaling: Factor on the scores.
        k: How many.
        heads: Which heads; None for all. Memory is O(t·S) for blocks of t queries.

    Returns:
        Positions [B, T, h, k], int64, and weights; −1 and 0 where fewer than k keys are seen.

    Raises:
        ObservationError: The kind of mask is not known.
    """
    mask, key_BGSC = as_causal(query_BHTC, key_BGSC, mask)
    query_BHTC, key_BGSC = _of_heads(query_BHTC, key_BGSC, heads)
    found = []
    for _, scores_BhtS, _ in _blocks(query_BHTC, key_BGSC, mask, scaling):
        logsumexp_Bht1 = scores_BhtS.logsumexp(dim=-1, keepdim=True)
        best, positions = scores_BhtS.topk(min(k, scores_BhtS.shape[-1]), dim=-1)
        unseen = best == -torch.inf
        weights = (best - logsumexp_Bht1).exp().masked_fill(unseen, 0.0)
        short = (0, k - best.shape[-1])
        positions = F.pad(positions.masked_fill(unseen, -1), short, value=-1)
        found.append((positions.transpose(1, 2), F.pad(weights, short).transpose(1, 2)))
    positions, weights = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return positions, weights


def all_weights(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    mask: Mask,
    scaling: float,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Weight of each query on each key: for texts whose result is small enough to hold.

    Args:
        query_BHTC: Queries.
        key_BGSC: Keys.
        mask: As for :func:`ringlens.observe.kernels.attention.head_statistics`.
        scaling: Factor on the scores.
        heads: Which heads; None for all.

    Returns:
        [B, h, T, S]; 0 at keys that are not seen, NaN in rows that see none.

    Raises:
        ObservationError: The kind of mask is not known.
    """
    S = key_BGSC.shape[2]
    mask, key_BGSC = as_causal(query_BHTC, key_BGSC, mask)
    query_BHTC, key_BGSC = _of_heads(query_BHTC, key_BGSC, heads)
    blocks = _blocks(query_BHTC, key_BGSC, mask, scaling)
    parts = [scores_BhtS.softmax(dim=-1).transpose(1, 2) for _, scores_BhtS, _ in blocks]
    weights_BThS = torch.cat(parts, dim=1)
    return F.pad(weights_BThS, (0, S - weights_BThS.shape[3]))


def _of_heads(
    query_BHTC: Tensor, key_BGSC: Tensor, heads: Sequence[int] | None
) -> tuple[Tensor, Tensor]:
    """Queries of chosen heads, and keys for each of them; all as they are for None."""
    if heads is None:
        return query_BHTC, key_BGSC
    chosen = torch.tensor(heads, device=query_BHTC.device)
    group = query_BHTC.shape[1] // key_BGSC.shape[1]
    return query_BHTC[:, chosen], key_BGSC[:, chosen // group]


def _blocks(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of queries: which, their scores [B, H, t, S], and what they see."""
    B, H, T, _ = query_BHTC.shape
    S = key_BGSC.shape[2]
    size = max(1, MAX_SCORES // (B * H * S))
    for start in range(0, T, size):
        queries = slice(start, min(start + size, T))
        seen = visible_keys(mask, queries, T, S, query_BHTC.device)
        yield queries, block_scores(query_BHTC[:, :, queries], key_BGSC, seen, scaling), seen
