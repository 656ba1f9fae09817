"""Watches what the chosen experts give: norms and peaks of their outputs, and what they turn.

Shape letters: B batch, T tokens of a forward, t positions of a block, N = B·T, D hidden size,
k experts a token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ringlens.model.expert_outputs import OutputWatch
from ringlens.model.kernels.rows import products
from ringlens.model.parallel import owned_layers
from ringlens.observe.hooks import attach
from ringlens.observe.instruments.base import Asked, Instrument, Kind, Watched
from ringlens.observe.instruments.routing import joined
from ringlens.observe.instruments.sent_layers import SentLayers
from ringlens.observe.instruments.transfer import Tensors
from ringlens.observe.instruments.vectors import Held
from ringlens.observe.points import POINTS, module_at

NAME = "expert_outputs"


class ExpertOutputsInstrument(SentLayers):
    """Watches the experts of some layers.

    Args:
        watched: The model, and what of it is watched.
        present: Layers in which this process takes part in computing the outputs.
        kept: Those of them of which it keeps the numbers.
    """

    def __init__(self, watched: Watched, present: tuple[int, ...], kept: tuple[int, ...]) -> None:
        super().__init__(watched.tape)
        self.model, self.present, self.kept = watched.model, present, frozenset(kept)
        self.transfer, self.experts = watched.transfer, watched.loaded.sizes.router.experts
        self._stream: dict[int, list[Tensor]] = defaultdict(list)
        self._numbers: dict[int, tuple[Tensor, ...]] = {}

    def attach(self) -> list[Any]:
        """Stand around the modules of experts; returns handles to remove."""
        points = [
            (POINTS[name], layer, partial(see, layer))
            for layer in sorted(self.kept)
            for name, see in (
                ("resid_pre", self._see_stream),
                ("attn_out", self._see_stream),
                ("expert_out", self._see_mixture),
            )
        ]
        watches = [
            OutputWatch(self.model, module_at(self.model, POINTS["expert_out"], layer), see)
            for layer in self.present
            for see in (partial(self._see_outputs, layer),)
        ]
        return [Held(attach(self.model, points)), *watches]

    def _see_stream(self, layer: int, seen_BTD: Tensor) -> None:
        self._stream[layer].append(seen_BTD)

    def _see_outputs(self, layer: int, *numbers: Tensor) -> None:
        if layer in self.kept:
            self._numbers[layer] = numbers

    def _see_mixture(self, layer: int, routed_BTD: Tensor) -> None:
        before_BTD, attended_BTD = self._stream.pop(layer)
        turned_BT = contribution(before_BTD, attended_BTD, routed_BTD)
        self._see(layer, *self._numbers.pop(layer), turned_BT.flatten())

    def _send(self, layer: int) -> None:
        compute = partial(output_fields, self.experts, self._shapes.pop(layer))
        self._sent[layer] = self.transfer.send(compute, *self._seen.pop(layer))


def contribution(before_BTD: Tensor, attended_BTD: Tensor, routed_BTD: Tensor) -> Tensor:
    """How far routed experts r turn the residual stream h, 1 - cos(h, h + r), float32 [B, T].

    A token's part in EASY-EP (arXiv 2504.06792). Computed as sin² / (1 + cos), which keeps its
    digits where the angle is small.
    """
    hh, hr, rr = products(before_BTD, attended_BTD, routed_BTD)
    sizes = (hh * (hh + 2 * hr + rr)).clamp(min=torch.finfo(torch.float32).tiny)
    cosine = ((hh + hr) / sizes.sqrt()).clamp(-1, 1)
    sine_squared = ((hh * rr - hr * hr) / sizes).clamp(0, 1)
    return torch.where(cosine > 0, sine_squared / (1 + cosine), 1 - cosine)


def output_fields(experts: int, shapes: list[tuple[int, int]], *seen: Tensor) -> Tensors:
    """The numbers of a block, each field [B, t, …], choices in order of their weights.

    Args:
        experts: Experts a layer.
        shapes: (B, T) of each forward.
        *seen: Ids, weights, norms and peaks [B·T, k] and contributions [B·T] of each in turn.
    """
    ids_Btk, weights_Btk, norms_Btk, peaks_Btk, turned_Bt = (
        joined(seen[i::5], shapes) for i in range(5)
    )
    # As the router record sorts them: of equal weights, the first stays first.
    order = weights_Btk.float().argsort(dim=-1, descending=True, stable=True)
    return {
        "expert_ids": ids_Btk.gather(-1, order).to(torch.uint8 if experts <= 256 else torch.int32),
        "norms": norms_Btk.gather(-1, order),
        "peaks": peaks_Btk.gather(-1, order),
        "contribution": turned_Bt,
    }


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    # All processes that share the layers' experts, as outputs are put together from their parts.
    here, only = owned_layers(watched.model), watched.only
    sparse = [layer for layer in here if layer in watched.loaded.sizes.sparse_layers]
    present = tuple(layer for layer in sparse if only is None or layer in only)
    if present:
        yield NAME, ExpertOutputsInstrument(watched, present, watched.sparse_layers)


KIND = Kind(_make)
