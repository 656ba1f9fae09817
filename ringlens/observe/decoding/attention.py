"""Attention of a decoding step that reads a cache of fixed size where it lies.

Given a mask, torch repeats all keys and values for every head, and one query of a row leaves most
of a GPU idle. Flash attention is told by numbers on the device how much of the cache is filled: it
reads that once, divided over the device, and a graph can hold it.

Shape letters: B batch, H heads, G kv heads, S positions that there is room for, C head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ringlens.model.family import family_of
from ringlens.observe.kernels.attention_flash import has_flash

NAME = "ringlens_fixed"
SERVED = ("sdpa", "ringlens")
"""Attention kernels in whose place a step reads in place."""

OTHERWISE = ("dropout", "sliding_window", "softcap", "s_aux")
"""Arguments of kernels with which attention is another function than is computed here."""

# The first generation of GPUs that flash attention runs on.
GENERATION = (8, 0)


class Filled:
    """Which keys of a fixed cache each row of a batch sees.

    Args:
        pads_B: Positions before each row that are padding.
        mask_B11S: The mask that says the same; who is given it, reads in place.
    """

    def __init__(self, pads_B: Tensor, mask_B11S: Tensor) -> None:
        B, S, device = len(pads_B), mask_B11S.shape[-1], pads_B.device
        self._pads_B, self.mask_B11S = pads_B, mask_B11S
        # Rows lie one behind the other in memory, and begin where their padding ends.
        firsts = [torch.arange(B, device=device) * S + pads_B, pads_B.new_tensor([B * S])]
        self._firsts = torch.cat(firsts).int()
        self._queries = torch.arange(B + 1, dtype=torch.int32, device=device)
        self._lengths_B = torch.zeros(B, dtype=torch.int32, device=device)

    def upto(self, position_1: Tensor) -> None:
        """Let the keys up to a position be seen."""
        self._lengths_B.copy_(position_1 + 1 - self._pads_B)

    def attention(
        self, query_BH1C: Tensor, key_BGSC: Tensor, value_BGSC: Tensor, scaling: float | None
    ) -> Tensor:
        """Outputs [B, 1, H, C].

        Args:
            query_BH1C: One query of each row.
            key_BGSC: The cache, in memory [B, S, G, C].
            value_BGSC: The same of values.
            scaling: Factor on the scores; None for 1/√C.
        """
        S = key_BGSC.shape[2]
        key, value = (x.transpose(1, 2).flatten(0, 1) for x in (key_BGSC, value_BGSC))
        output_BHC = torch.ops.aten._flash_attention_forward(
            query_BH1C[:, :, 0],
            key,
            value,
            self._queries,
            self._firsts,
            1,
            S,
            0.0,
            False,
            False,
            scale=scaling,
            seqused_k=self._lengths_B,
        )[0]
        return output_BHC[:, None]


class FixedAttention:
    """Stands in place of a model's attention kernel, and calls it for all but decoding steps.

    Args:
        kernel: Name of the model's own.

    Attributes:
        filled: What the step sees, once there is one.
    """

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.filled: Filled | None = None

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention as transformers calls it."""
        filled = self.filled
        if (
            filled is not None
            and attention_mask is filled.mask_B11S
            and key.shape == value.shape
            and reads_in_place(query)
            and not any(_given(kwargs.get(name)) for name in OTHERWISE)
        ):
            return filled.attention(query, key, value, scaling), None
        attend = family_of(module.config).attention_kernel(self.kernel, query)
        return attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _given(value: object) -> bool:
    return isinstance(value, Tensor) or bool(value)


def reads_in_place(query: Tensor) -> bool:
    """Whether flash attention runs here."""
    return (
        query.is_cuda
        and has_flash(query)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(query.device) >= GENERATION
        and torch.backends.cuda.is_flash_attention_available()
    )


@contextmanager
def fixed_attention(config: Any) -> Iterator[FixedAttention]:
    """Have a model's decoding steps read a fixed cache in place, as long as the block runs."""
    own = config._attn_implementation
    attention = FixedAttention(own)
    if own not in SERVED:
        yield attention
        return
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[own])
    config._attn_implementation = NAME
    try:
        yield attention
    finally:
        config._attn_implementation = own
        attention.filled = None  # transformers keeps what was registered
