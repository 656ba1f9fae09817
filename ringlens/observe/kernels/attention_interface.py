"""Attention "ringlens" for transformers: sdpa's result, the head statistics in the same pass.

On CUDA in 16 bits a forward of several tokens runs the kernel of attention_triton.py, observed or
not, so that observing changes no output by a bit. Single tokens, other types and other devices run
sdpa.

Shape letters: B batch, H heads, G kv heads, T queries, S keys, C head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ringlens.errors import ObservationError
from ringlens.observe.kernels.attention import HeadStatistics, has_triton

NAME = "ringlens"
_STATISTICS = "ringlens_statistics"


def register_attention() -> None:
    """Make ``attention="ringlens"`` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, attention_mask)


def take_statistics(module: nn.Module) -> HeadStatistics | None:
    """Statistics of the last forward of a watched attention module, once; None if it ran sdpa."""
    return module.__dict__.pop(_STATISTICS, None)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: output [B, T, H, C], no weights.

    Args:
        module: The attention module; one that is watched finds its statistics by
            :func:`take_statistics`.
        query: [B, H, T, C].
        key: [B, G, S, C].
        value: [B, G, S, C].
        attention_mask: What :func:`attention_mask` made.
        dropout: Must be 0 where the kernel runs.
        scaling: Factor on the scores, None for 1/√C.
        **kwargs: Passed on to sdpa.

    Raises:
        ObservationError: The kernel would have to give a gradient, or drop weights.
    """
    ready_made = attention_mask is not None and attention_mask.ndim == 4
    if ready_made or query.shape[2] == 1 or not has_triton(query.device, query.dtype):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    if dropout or (torch.is_grad_enabled() and query.requires_grad):
        raise ObservationError(
            "attention='ringlens' has neither gradients nor dropout on CUDA. Load the model with "
            "attention='sdpa' for training, or run it under torch.inference_mode()."
        )
    from ringlens.observe.kernels.attention_triton import attention_with_statistics

    first_B = None if attention_mask is None else attention_mask.to(query.device)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    output_BTHC, found = attention_with_statistics(query, key, value, first_B, scaling)
    if module.__dict__.get("ringlens_watches"):
        module.__dict__[_STATISTICS] = HeadStatistics(*found)
    return output_BTHC, None


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """First key of each row, [B] int32, None without padding; sdpa's mask where sdpa runs.

    Arguments are those that transformers passes to every mask function.

    Raises:
        ObservationError: The kernel runs and the mask is anything but causal with left padding.
    """
    if q_length == 1 or not has_triton(torch.device(device), dtype):
        return sdpa_mask(
            batch_size,
            q_length,
            kv_length,
            q_offset,
            kv_offset,
            mask_function,
            attention_mask,
            device=device,
            **kwargs,
        )
    if mask_function is not causal_mask_function or kv_offset or kv_length != q_length + q_offset:
        raise ObservationError(
            "attention='ringlens' runs causal attention over a growing cache; this model call "
            f"wants another mask ({q_length} queries at {q_offset} against {kv_length} keys). "
            "Load the model with attention='sdpa'."
        )
    return None if attention_mask is None else left_padding(attention_mask[:, :kv_length])


def left_padding(real_BS: Tensor) -> Tensor | None:
    """First real position of each row [B], int32, of a padding mask; None without padding.

    Raises:
        ObservationError: Something other than the left of a row is padded.
    """
    first_B = real_BS.shape[1] - real_BS.sum(dim=1, dtype=torch.int32)
    expected_BS = torch.arange(real_BS.shape[1], device=real_BS.device) >= first_B[:, None]
    is_left, is_padded = torch.stack(((real_BS == expected_BS).all(), first_B.any())).tolist()
    if not is_left:
        raise ObservationError(
            "attention='ringlens' takes padding on the left of a row only. Pad on the left, or "
            "load the model with attention='sdpa'."
        )
    return first_B if is_padded else None
