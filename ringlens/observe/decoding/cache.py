"""A cache of keys and values in memory that does not move while steps are repeated.

Shape letters: B batch, G kv heads, S positions, C head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

# Bytes that a cache leaves behind before PyTorch is told to give them back to the device: it keeps
# them, and finds no place in them for what is larger.
LEFT = 2**30


class FixedCache(Cache):
    """Keys and values of a batch, with room for a fixed number of positions.

    Args:
        past: A cache that grows, filled by a prefill, or another of this kind. It is emptied, layer
            by layer, so that nothing is held twice.
        positions: Positions that are filled.
        capacity: Positions that there is room for.
        position_1: Where the next token's keys and values go, int64 [1]; read at every step.

    Attributes:
        keys: By layer, [B, G, S, C]; in memory [B, S, G, C].
        values: By layer, the same.
    """

    def __init__(self, past: Cache, positions: int, capacity: int, position_1: Tensor) -> None:
        self.layers: list[Any] = []
        self.layer_class_to_replicate = None
        self.offloading = False
        self.capacity, self._position_1 = capacity, position_1
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        left = 0
        for key, value in _taken(past):
            self.keys.append(_with_room(key, positions, capacity))
            self.values.append(_with_room(value, positions, capacity))
            left += key.nbytes + value.nbytes
            if key.is_cuda and left > LEFT:
                del key, value
                torch.cuda.empty_cache()
                left = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put in the keys and values [B, G, 1, C] of one token; all of the layer."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys.index_copy_(2, self._position_1, key_states)
        values.index_copy_(2, self._position_1, value_states)
        return keys, values


def _taken(past: Cache) -> Any:
    """Keys and values of each layer, which the cache then holds no more."""
    if isinstance(past, FixedCache):
        while past.keys:
            yield past.keys.pop(0), past.values.pop(0)
        return
    for layer in past.layers:
        key, value = layer.keys, layer.values
        layer.keys = layer.values = None
        yield key, value
        del key, value


def _with_room(x_BGSC: Tensor, positions: int, capacity: int) -> Tensor:
    B, G, _, C = x_BGSC.shape
    # What is not written must not be NaN.
    room = x_BGSC.new_zeros(B, capacity, G, C).transpose(1, 2)
    room[:, :, :positions] = x_BGSC[:, :, :positions]
    return room
