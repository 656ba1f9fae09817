"""Head statistics in memory linear in the text: entropy, log-sum-exp, weights on chosen keys.

For a query q and visible keys k_j: scores x_j = q·k_j·scaling, L = log Σ_j exp x_j, weights
p_j = exp(x_j − L), entropy = −Σ_j p_j log p_j = L − Σ_j p_j x_j = L − q·(Σ_j p_j k_j)·scaling.

Shape letters: B batch, H heads, G kv heads, r = H / G, T queries, t queries of a block, S keys,
C head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from ringlens.errors import ObservationError
from ringlens.model.kernels.triton_available import triton_installed
from ringlens.observe.kernels.attention_flash import flash_statistics, has_flash

# Scores held at a time where no fused kernel knows the mask: 2**25 float32 are 128 MiB.
MAX_SCORES = 2**25


@dataclass(frozen=True)
class Causal:
    """Which keys are seen: query t of T sees the keys first_B[b] … S − T + t.

    Attributes:
        first_B: First key of each row that is no padding, integer [B]; None: key 0 in all.
    """

    first_B: Tensor | None = None


@dataclass(frozen=True)
class CausalAt:
    """Which keys are seen by queries picked from a text: query t sees the keys 0 … own_T[t].

    Attributes:
        own_T: Position of each query, integer [T].
    """

    own_T: Tensor


Mask = Causal | CausalAt | Tensor | BlockMask | None


@dataclass(frozen=True)
class HeadStatistics:
    """What the heads of one layer did, [B, T, H]; NaN in padded rows.

    Attributes:
        entropy: Entropy of the weights, nats.
        first_weight: Weight on the first visible key.
        previous_weight: Weight on the key before the query's own, 0 where there is none.
        logsumexp: log Σ exp of the scores, nats.
    """

    entropy: Tensor
    first_weight: Tensor
    previous_weight: Tensor
    logsumexp: Tensor


def head_statistics(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float
) -> HeadStatistics:
    """Entropy, log-sum-exp and the weights on the first and the previous token, per query and head.

    Args:
        query_BHTC: Queries as the kernel gets them.
        key_BGSC: Keys as the kernel gets them, cached ones included; G divides H.
        mask: ``Causal`` (fast), ``CausalAt``, or the kernel's own mask: bool or additive
            [B, 1, T, S], a BlockMask, or None (causal from the first key; a single query sees
            every key).
        scaling: Factor on the scores.

    Computed in float32, in float64 from float64 inputs (the result is then float64 too).

    Raises:
        ObservationError: The kind of mask is not known.
    """
    mask, key_BGSC = as_causal(query_BHTC, key_BGSC, mask)
    if not isinstance(mask, Causal):
        return _masked_statistics(query_BHTC, key_BGSC, mask, scaling)
    fused = _triton_statistics(query_BHTC)
    if fused is not None:
        return HeadStatistics(*fused(query_BHTC, key_BGSC, mask.first_B, scaling))
    if not has_flash(query_BHTC):
        return _masked_statistics(query_BHTC, key_BGSC, mask, scaling)
    return second_pass(query_BHTC, key_BGSC, mask.first_B, scaling)


def second_pass(
    query_BHTC: Tensor, key_BGSC: Tensor, first_B: Tensor | None, scaling: float
) -> HeadStatistics:
    """Statistics under ``Causal(first_B)`` by flash attention with the keys as values."""
    entropy, logsumexp = flash_statistics(query_BHTC, key_BGSC, first_B, scaling)
    first = _weight_on_first(query_BHTC, key_BGSC, first_B, scaling, logsumexp)
    previous = weight_back(query_BHTC, key_BGSC, first_B, scaling, logsumexp, 1)
    return HeadStatistics(entropy, first, previous, logsumexp)


def as_causal(query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask) -> tuple[Mask, Tensor]:
    """``mask`` as ``Causal`` where that says the same, and the keys it speaks of.

    Raises:
        ObservationError: ``Causal`` with more queries than keys.
    """
    T, S = query_BHTC.shape[2], key_BGSC.shape[2]
    if mask is None and T == 1:
        return Causal(), key_BGSC
    if mask is None and T <= S:  # kernels then align queries and keys at the first position
        return Causal(), key_BGSC[:, :, :T]
    if isinstance(mask, Causal) and T > S:
        raise ObservationError(
            f"{T} queries but {S} keys: a causal mask needs every query's own key among the keys. "
            "Give the cached keys together with the new ones."
        )
    return mask, key_BGSC


def wide(x: Tensor) -> Tensor:
    """``x`` in the type that statistics are computed in: float32, or float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def weight_back(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    first_B: Tensor | None,
    scaling: float,
    logsumexp_BTH: Tensor,
    offset: int,
) -> Tensor:
    """Weight [B, T, H] on the key ``offset`` before the query's own under ``Causal``, 0 if none."""
    T, S = query_BHTC.shape[2], key_BGSC.shape[2]
    skipped = min(T, max(0, offset - (S - T)))  # queries whose key would stand before the text
    weights = torch.zeros_like(logsumexp_BTH)
    key_BGtC = key_BGSC[:, :, S - T + skipped - offset : S - offset]
    score_BtH = _dots(query_BHTC[:, :, skipped:], key_BGtC) * scaling
    weights[:, skipped:] = (score_BtH - logsumexp_BTH[:, skipped:]).exp()
    if first_B is not None:
        own_T = torch.arange(S - T, S, device=weights.device)
        none_BT = own_T - offset < first_B[:, None]
        weights.masked_fill_(none_BT[..., None], 0.0)
        weights.masked_fill_((own_T < first_B[:, None])[..., None], torch.nan)
    return weights


def _weight_on_first(
    query_BHTC: Tensor,
    key_BGSC: Tensor,
    first_B: Tensor | None,
    scaling: float,
    logsumexp_BTH: Tensor,
) -> Tensor:
    if first_B is None:
        key_BG1C = key_BGSC[:, :, :1]
    else:
        rows = torch.arange(len(first_B), device=key_BGSC.device)
        key_BG1C = key_BGSC[rows, :, first_B.clamp(max=key_BGSC.shape[2] - 1)].unsqueeze(2)
    return (_dots(query_BHTC, key_BG1C) * scaling - logsumexp_BTH).exp()


def _dots(query_BHTC: Tensor, key_BGTC: Tensor) -> Tensor:
    """Dot product [B, T, H] of each query with the key at its place (or with the only one)."""
    B, H, _, C = query_BHTC.shape
    size = max(1, MAX_SCORES // (B * H * C))
    parts = []
    for query, key in zip(
        query_BHTC.split(size, dim=2),
        key_BGTC.split(size, dim=2) if key_BGTC.shape[2] > 1 else repeat(key_BGTC),
        strict=False,
    ):
        query_BGrtC = wide(query).unflatten(1, (key.shape[1], -1))
        parts.append((query_BGrtC * wide(key).unsqueeze(2)).sum(dim=-1).flatten(1, 2))
    return torch.cat(parts, dim=2).transpose(1, 2)


def visible_keys(mask: Mask, queries: slice, T: int, S: int, device: torch.device) -> Tensor:
    """Which keys the queries of a block see, bool [B or 1, 1, t, S], whatever the kind of mask.

    Raises:
        ObservationError: The kind of mask is not known.
    """
    q = torch.arange(T, device=device)[queries, None]
    k = torch.arange(S, device=device)
    if isinstance(mask, Causal):
        seen = (k <= q + (S - T))[None, None]
        return seen if mask.first_B is None else seen & (k >= mask.first_B[:, None, None, None])
    if isinstance(mask, CausalAt):
        return (k <= mask.own_T[queries, None])[None, None]
    if isinstance(mask, BlockMask):
        b = torch.arange(mask.shape[0], device=device)[:, None, None, None]
        zero = torch.zeros((), dtype=torch.long, device=device)
        return mask.mask_mod(b, zero, q, k).expand(len(b), 1, -1, S)
    if isinstance(mask, Tensor) and mask.ndim == 4:
        block = mask[:, :1, queries, :S]
        return block if block.dtype == torch.bool else block == 0
    if mask is None:
        return (k <= q)[None, None]
    raise ObservationError(
        f"head statistics do not know an attention mask of {type(mask).__name__} "
        f"{tuple(getattr(mask, 'shape', ()))}. Load the model with attention='sdpa' or 'eager', "
        "or leave 'heads' out of record=."
    )


def _masked_statistics(
    query_BHTC: Tensor, key_BGSC: Tensor, mask: Mask, scaling: float
) -> HeadStatistics:
    """Statistics under any mask, in blocks that keep within ``MAX_SCORES`` scores."""
    B, H, T, _ = query_BHTC.shape
    S = key_BGSC.shape[2]
    size = max(1, MAX_SCORES // (B * H * S))
    blocks = []
    for start in range(0, T, size):
        queries = slice(start, min(start + size, T))
        seen = visible_keys(mask, queries, T, S, query_BHTC.device)
        scores_BHtS = block_scores(query_BHTC[:, :, queries], key_BGSC, seen, scaling)
        blocks.append(_statistics(scores_BHtS, seen))
    return HeadStatistics(*(torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True)))


def block_scores(query_BHtC: Tensor, key_BGSC: Tensor, seen: Tensor, scaling: float) -> Tensor:
    """Scores [B, H, t, S] of a block of queries, −inf at keys that are not seen."""
    G, r = key_BGSC.shape[1], query_BHtC.shape[1] // key_BGSC.shape[1]
    query = (wide(query_BHtC) * scaling).unflatten(1, (G, r)).flatten(2, 3)  # r·t rows a kv head
    scores_BGrtS = (query @ wide(key_BGSC).transpose(2, 3)).unflatten(2, (r, -1))
    return scores_BGrtS.flatten(1, 2).masked_fill_(~seen, -torch.inf)


def _statistics(scores_BHtS: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
    """The four statistics [B, t, H] of score rows."""
    S = scores_BHtS.shape[-1]
    logsumexp_BHt = scores_BHtS.logsumexp(dim=-1)
    logp_BHtS = scores_BHtS.sub_(logsumexp_BHt[..., None])
    p_BHtS = logp_BHtS.exp()
    first = seen.byte().argmax(dim=-1, keepdim=True)
    own = S - 1 - seen.flip(-1).byte().argmax(dim=-1, keepdim=True)
    rows = p_BHtS.shape[:3]
    first_p = p_BHtS.gather(3, first.expand(*rows, 1))[..., 0]
    previous_p = p_BHtS.gather(3, (own - 1).clamp(min=0).expand(*rows, 1))[..., 0]
    previous_p = previous_p.masked_fill((own <= first)[..., 0], 0.0)
    entropy = -p_BHtS.mul_(logp_BHtS.masked_fill_(~seen, 0.0)).sum(dim=-1)  # not 0 · −inf
    found = (entropy, first_p, previous_p, logsumexp_BHt)
    sees_none = ~seen.any(dim=-1)
    return tuple(x.masked_fill(sees_none, torch.nan).transpose(1, 2) for x in found)


def _triton_statistics(query: Tensor) -> Callable[..., tuple[Tensor, ...]] | None:
    """The kernel that does it all in one pass, where the device has one."""
    if not has_triton(query.device, query.dtype):
        return None
    from ringlens.observe.kernels.attention_triton import statistics

    return statistics


def has_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels of attention_triton.py run there: 16 bits, on CUDA."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and triton_installed()
