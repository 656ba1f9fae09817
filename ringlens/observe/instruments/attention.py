"""Watches attention through transformers' attention interface.

The model keeps its kernel; ours stands around it and sees queries, keys and outputs. A decoding
step costs next to nothing: its queries wait, and 64 steps later one pass over the cached keys gives
the statistics of all of them.

Shape letters: B batch, T tokens of a forward, t positions of a block, H heads, G kv heads, S keys,
C head dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ringlens.model.family import family_of
from ringlens.observe.instruments.base import Asked, Instrument, Kind, Watched
from ringlens.observe.instruments.transfer import PendingTensors, Tensors
from ringlens.observe.instruments.window import Window
from ringlens.observe.kernels.attention import Causal, HeadStatistics
from ringlens.observe.kernels.attention_interface import take_statistics
from ringlens.observe.points import POINTS, module_at

Compute = Callable[..., Tensors]
"""Computes fields [B, t, …] of a block.

It is given the factor on the scores; keys [B, G, S, C] up to the block's last position; the first
position of each row that is no padding [B], empty for position 0; then queries [B, H, T, C] and
outputs [B, T, H, C] of each forward in turn. It must not wait for the device.
"""

Watch = Callable[[Tensor, Tensor, Tensor, float, HeadStatistics | None], None]
"""Sees a forward of one layer.

It is given queries [B, H, T, C], keys [B, G, S, C], outputs [B, T, H, C], the factor on the scores,
and head statistics where the model's kernel has given them.
"""


class AttentionInstrument:
    """Computes something from queries, keys and outputs of some layers.

    Args:
        watched: The model, and what of it is watched.
        layers: Layers that are watched.
        compute: What is computed, as `Compute` says.
        known: Computes the same where the model's kernel has given head statistics: of their
            fields, and then of outputs [B, T, H, C].
        window: Positions that are looked at; None: all.
    """

    on_tape = True

    def __init__(
        self,
        watched: Watched,
        layers: tuple[int, ...],
        compute: Compute,
        known: Callable[..., Tensors] | None = None,
        window: Window | None = None,
    ) -> None:
        self.model, self.layers, self.compute, self.known = watched.model, layers, compute, known
        self.first_B, self.transfer, self._tape = watched.first_B, watched.transfer, watched.tape
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

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins, after which ``stop`` positions are in the cache."""
        self._T = token_ids_BT.shape[1]
        self._begin = stop - self._T

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
        if query_BHTC.shape[2] == 1:
            keep = partial(self._keep, layer, key_BGSC, scaling)
            self._tape.show(keep, query_BHTC, output_BTHC)
            return
        part = self._window.cut(self._begin, self._T)
        if part.start == part.stop:
            return
        if not self._seen and not self._sent:
            self.start = self._begin + part.start
        key_BGSC = key_BGSC[:, :, : self._begin + part.stop]  # what the last of them sees
        query_BHTC, output_BTHC = query_BHTC[:, :, part], output_BTHC[:, part]
        if known is not None and self.known is not None:
            self._sent[layer] = self.transfer.send(self.known, *_tensors(known), output_BTHC)
        else:
            self._send(layer, key_BGSC, scaling, query_BHTC, output_BTHC)

    def _keep(
        self,
        layer: int,
        key_BGSC: Tensor,
        scaling: float,
        query_BH1C: Tensor,
        output_B1HC: Tensor,
    ) -> None:
        """Keep a single token's; as little as possible, as every layer of every step does this."""
        part = self._window.cut(self._begin, 1)
        if part.start == part.stop:
            return
        if not self._seen:
            self.start = self._begin
        self._seen[layer] += (query_BH1C, output_B1HC)
        self._keys[layer] = key_BGSC, scaling, self._begin + 1

    def _send(self, layer: int, key: Tensor, scaling: float, *seen: Tensor) -> None:
        # Only tensors are sent: an empty one stands for no padding.
        first_B = key.new_empty(0) if self.first_B is None else self.first_B.to(key.device)
        self._sent[layer] = self.transfer.send(partial(self.compute, scaling), key, first_B, *seen)


@contextmanager
def watched_attention(model: Any, layer: int, watch: Watch) -> Iterator[None]:
    """Call a function with queries, keys and outputs of a layer as long as the block runs."""
    kernel = _Kernel(model.config)
    watcher = _Watch(module_at(model, POINTS["attn_out"], layer), watch)
    try:
        yield
    finally:
        watcher.remove()
        kernel.remove()


def attention_statistic(name: str, compute: Compute) -> Kind:
    """A kind of instrument that computes a number of each head, on all layers.

    Args:
        name: Name of its declaration.
        compute: Fields [B, t, H], named as the columns of its table.
    """

    def make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
        if watched.layers:
            yield name, AttentionInstrument(watched, watched.layers, compute)

    return Kind(make)


def causal(first_B: Tensor) -> Causal:
    """The mask of a block: causal, from the first position of each row on."""
    return Causal(first_B if len(first_B) else None)


def _tensors(statistics: HeadStatistics) -> list[Tensor]:
    return [getattr(statistics, field.name) for field in fields(statistics)]


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

    def __init__(self, module: nn.Module, watch: Watch) -> None:
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
