"""Watches the attention heads through transformers' attention interface.

The model keeps its kernel; ours stands around it and sees queries, keys and outputs. A decoding
step costs next to nothing: its queries wait, and 64 steps later one pass over the cached keys gives
the statistics of all of them.

Shape letters: B batch, T tokens of a forward, t positions of a block, H heads, G kv heads, S keys,
C head dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ringlens.observe.attention import Causal, head_statistics
from ringlens.observe.parcel import Courier, Parcel, Tensors
from ringlens.observe.points import POINTS, attention_kernel, module_at

if TYPE_CHECKING:
    from ringlens.model.modeling import BailingMoeV2ForCausalLM

FIELDS = ("entropy", "first_weight", "previous_weight", "output_norm")


class HeadInstrument:
    """Statistics of all heads of some layers.

    Args:
        model: The model.
        layers: Layers that are watched.
        first_B: First position of each row that is no padding; None: position 0 in all.
        courier: Sends the results.
    """

    def __init__(
        self,
        model: BailingMoeV2ForCausalLM,
        layers: tuple[int, ...],
        first_B: Tensor | None,
        courier: Courier,
    ) -> None:
        self.model, self.layers, self.courier = model, layers, courier
        self.first_B = first_B
        self._stop = 0
        self._seen: dict[int, list[Tensor]] = defaultdict(list)
        self._keys: dict[int, tuple[Tensor, float]] = {}
        self._sent: dict[int, Parcel] = {}

    def attach(self) -> list[Any]:
        """Stand around the model's kernel; returns handles to remove."""
        return [
            _Kernel(self.model.config),
            *(
                _Sink(module_at(self.model, POINTS["attn_out"], layer), partial(self._see, layer))
                for layer in self.layers
            ),
        ]

    def begin(self, shape: tuple[int, int], stop: int) -> None:
        """A forward begins, after which ``stop`` positions are in the cache."""
        self._stop = stop

    def take(self) -> dict[int, Parcel]:
        """What was seen since the last time, by layer."""
        for layer, seen in self._seen.items():
            key, scaling = self._keys[layer]
            compute = partial(head_fields, scaling)
            self._sent[layer] = self.courier.send(compute, key, self._firsts(key), *seen)
        self._seen.clear()
        self._keys.clear()
        sent, self._sent = self._sent, {}
        return sent

    def _see(
        self,
        layer: int,
        query_BHTC: Tensor,
        key_BGSC: Tensor,
        output_BTHC: Tensor,
        scaling: float,
    ) -> None:
        key_BGSC = key_BGSC[:, :, : self._stop]  # a static cache is longer than what it holds
        if query_BHTC.shape[2] == 1:
            self._seen[layer] += (query_BHTC, output_BTHC)
            self._keys[layer] = key_BGSC, scaling
        else:
            self._sent[layer] = self.courier.send(
                partial(head_fields, scaling),
                key_BGSC,
                self._firsts(key_BGSC),
                query_BHTC,
                output_BTHC,
            )

    def _firsts(self, key: Tensor) -> Tensor:
        """First positions on the device of ``key``; empty for none (a parcel takes tensors)."""
        return key.new_empty(0) if self.first_B is None else self.first_B.to(key.device)


def head_fields(scaling: float, key_BGSC: Tensor, first_B: Tensor, *seen: Tensor) -> Tensors:
    """Head statistics of a block, each field [B, t, H]; all but the norm rounded to fp16.

    Args:
        scaling: Factor on the scores.
        key_BGSC: Keys up to the block's last position.
        first_B: First position of each row that is no padding; empty: position 0.
        *seen: Queries [B, H, T, C] and outputs [B, T, H, C] of each forward in turn.
    """
    query_BHtC, output_BtHC = torch.cat(seen[0::2], dim=2), torch.cat(seen[1::2], dim=1)
    mask = Causal(first_B if len(first_B) else None)
    found = head_statistics(query_BHtC, key_BGSC, mask, scaling)
    return {
        "entropy": found.entropy.half(),
        "first_weight": found.first_weight.half(),
        "previous_weight": found.previous_weight.half(),
        "output_norm": torch.linalg.vector_norm(output_BtHC, dim=-1, dtype=torch.float32),
    }


class _Kernel:
    """Puts ours around the model's kernel; ``remove`` takes that back."""

    def __init__(self, config: Any) -> None:
        self.config, self.kernel = config, config._attn_implementation
        name = f"ringlens:{self.kernel}"
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[self.kernel])
        AttentionInterface.register(name, partial(_observed_attention, self.kernel))
        config._attn_implementation = name

    def remove(self) -> None:
        self.config._attn_implementation = self.kernel


class _Sink:
    """Tells an attention module who watches it; ``remove`` takes that back."""

    def __init__(self, module: nn.Module, watch: Callable[..., None]) -> None:
        self.module = module
        module.__dict__["ringlens_watch"] = watch

    def remove(self) -> None:
        del self.module.__dict__["ringlens_watch"]


def _observed_attention(
    kernel: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own kernel, seen by whoever watches the module."""
    attend = attention_kernel(kernel, query)
    output_BTHC, weights = attend(module, query, key, value, attention_mask, **kwargs)
    watch = module.__dict__.get("ringlens_watch")
    if watch is not None:
        watch(query, key, output_BTHC, kwargs["scaling"])
    return output_BTHC, weights
