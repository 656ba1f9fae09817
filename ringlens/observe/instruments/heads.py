"""Watches attention through transformers' attention interface: head statistics, top positions.

The model keeps its kernel; ours stands around it and sees queries, keys and outputs. A decoding
step costs next to nothing: its queries wait, and 64 steps later one pass over the cached keys gives
the statistics of all of them.

Shape letters: B batch, T tokens of a forward, t positions of a block, H heads, G kv heads, S keys,
C head dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ringlens.model.family import family_of
from ringlens.observe.instruments.transfer import PendingTensors, Tensors, Transfer
from ringlens.observe.instruments.vectors import Window
from ringlens.observe.kernels.attention import Causal, HeadStatistics, head_statistics
from ringlens.observe.kernels.attention_interface import take_statistics
from ringlens.observe.kernels.attention_segments import top_positions
from ringlens.observe.points import POINTS, module_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELDS = ("entropy", "first_weight", "previous_weight", "output_norm")


# scaling, keys [B, G, S, C], first positions [B] or empty, then queries and outputs in turn
Compute = Callable[..., Tensors]


class AttentionInstrument:
    """Computes something from queries, keys and outputs of some layers.

    Args:
        model: The model.
        layers: Layers that are watched.
        compute: What is computed, `head_fields` or `top_fields`.
        first_B: First position of each row that is no padding; None: position 0 in all.
        transfer: Sends the results.
        window: Positions that are looked at; None: all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: tuple[int, ...],
        compute: Compute,
        first_B: Tensor | None,
        transfer: Transfer,
        window: Window | None = None,
    ) -> None:
        self.model, self.layers, self.compute = model, layers, compute
        self.first_B, self.transfer = first_B, transfer
        self.start = 0
        self._window = window or Window((0, None), ())
        self._begin = self._T = 0
        self._seen: dict[int, list[Tensor]] = defaultdict(list)
        self._keys: dict[int, tuple[Tensor, float, int]] = {}
        self._sent: dict[int, PendingTensors] = {}

    def attach(self) -> list[Any]:
        """Stand around the model's kernel; returns handles to remove."""
        handles: list[Any] = [_Kernel(self.model.config)]
        for layer in self.layers:
            module = module_at(self.model, POINTS["attn_out"], layer)
            handles.append(_Watch(module, partial(self._see, layer)))
        return handles[::-1]  # the kernel is given back last

    def begin(self, shape: tuple[int, int], stop: int) -> None:
        """A forward of [B, T] tokens begins, after which ``stop`` positions are in the cache."""
        self._T, self._begin = shape[1], stop - shape[1]

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time, by layer."""
        for layer, seen in self._seen.items():
            key_BGSC, scaling, stop = self._keys[layer]
            self._send(layer, key_BGSC[:, :, :stop], scaling, *seen)
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
        known: HeadStatistics | None,
    ) -> None:
        part = self._window.cut(self._begin, self._T)
        if part.start == part.stop:
            return
        if self._T == 1:  # as little as possible: this is done for every layer of every step
            if not self._seen:
                self.start = self._begin
            self._seen[layer] += (query_BHTC, output_BTHC)
            self._keys[layer] = key_BGSC, scaling, self._begin + 1
            return
        if not self._seen and not self._sent:
            self.start = self._begin + part.start
        key_BGSC = key_BGSC[:, :, : self._begin + part.stop]  # what the last of them sees
        query_BHTC, output_BTHC = query_BHTC[:, :, part], output_BTHC[:, part]
        if known is not None and self.compute is head_fields:
            self._sent[layer] = self.transfer.send(known_fields, *_tensors(known), output_BTHC)
        else:
            self._send(layer, key_BGSC, scaling, query_BHTC, output_BTHC)

    def _send(self, layer: int, key: Tensor, scaling: float, *seen: Tensor) -> None:
        # Only tensors are sent: an empty one stands for no padding.
        first_B = key.new_empty(0) if self.first_B is None else self.first_B.to(key.device)
        self._sent[layer] = self.transfer.send(partial(self.compute, scaling), key, first_B, *seen)


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
    return _fields(found, output_BtHC)


def known_fields(*known: Tensor) -> Tensors:
    """The same where the model's kernel has given the statistics: their fields, then the output."""
    *statistics, output_BTHC = known
    return _fields(HeadStatistics(*statistics), output_BTHC)


def _tensors(statistics: HeadStatistics) -> list[Tensor]:
    return [getattr(statistics, field.name) for field in fields(statistics)]


def _fields(found: HeadStatistics, output_BtHC: Tensor) -> Tensors:
    return {
        "entropy": found.entropy.half(),
        "first_weight": found.first_weight.half(),
        "previous_weight": found.previous_weight.half(),
        "output_norm": torch.linalg.vector_norm(output_BtHC, dim=-1, dtype=torch.float32),
    }


def top_fields(
    k: int, heads: tuple[int, ...], scaling: float, key_BGSC: Tensor, first_B: Tensor, *seen: Tensor
) -> Tensors:
    """The k positions that each token looks at most, padding counted, and their weights.

    Both are [B, t, h, k] for the h chosen heads; position −1 where fewer than k are visible. Other
    arguments as for `head_fields`.
    """
    query_BHtC = torch.cat(seen[0::2], dim=2)
    mask = Causal(first_B if len(first_B) else None)
    positions, weights = top_positions(query_BHtC, key_BGSC, mask, scaling, k, heads)
    return {"positions": positions.to(torch.int32), "weights": weights.float()}


class _Kernel:
    """Puts ours around the model's kernel, once; ``remove`` takes that back."""

    prefix = "ringlens:"

    def __init__(self, config: Any) -> None:
        self.config, self.kernel = config, config._attn_implementation
        if self.kernel.startswith(self.prefix):
            return
        name = f"{self.prefix}{self.kernel}"
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[self.kernel])
        AttentionInterface.register(name, partial(_observed_attention, self.kernel))
        config._attn_implementation = name

    def remove(self) -> None:
        self.config._attn_implementation = self.kernel


class _Watch:
    """Adds a function to those that watch an attention module; ``remove`` takes it away."""

    def __init__(self, module: nn.Module, watch: Callable[..., None]) -> None:
        self.module, self.watch = module, watch
        module.__dict__.setdefault("ringlens_watches", []).append(watch)

    def remove(self) -> None:
        watches = self.module.__dict__["ringlens_watches"]
        watches.remove(self.watch)
        if not watches:
            del self.module.__dict__["ringlens_watches"]


def _observed_attention(
    kernel: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own kernel, seen by those who watch the module."""
    attend = family_of(module.config).attention_kernel(kernel, query)
    output_BTHC, weights = attend(module, query, key, value, attention_mask, **kwargs)
    known = take_statistics(module)
    for watch in module.__dict__.get("ringlens_watches", ()):
        watch(query, key, output_BTHC, kwargs["scaling"], known)
    return output_BTHC, weights
