"""One decoding step of a batch: nothing of it depends on Python when it is run again.

What changes from step to step lies in tensors that do not move: the tokens, their position, what
they may see, which rows have ended. So the step can be run as it stands, on any device, and a CUDA
graph can repeat it.

Shape letters: B batch, P positions of the prompts, S positions that there is room for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ringlens.model.caching import CACHE
from ringlens.observe.decoding.attention import Filled, FixedAttention
from ringlens.observe.decoding.cache import FixedCache
from ringlens.observe.decoding.drawing import Drawing
from ringlens.observe.decoding.rings import Rings
from ringlens.observe.instruments.tape import Shown, Tape
from ringlens.observe.pipeline.recorder import Repeated


class Step:
    """A decoding step.

    Args:
        model: The model.
        tape: What instruments show by it.
        past: The cache of the prefill; it is emptied.
        mask_BP: Which positions of the prompts are no padding.
        logits_BV: Logits behind the last of them.
        drawing: Draws the tokens.
        ring: Steps that are kept before they are taken in.
        capacity: Positions that there is room for at first.
        attention: Reads the cache in place where that is possible; it is told what is filled.

    Attributes:
        capacity: Positions that there is room for.
        device: Where it runs.
    """

    def __init__(
        self,
        model: Any,
        tape: Tape,
        past: Cache,
        mask_BP: Tensor,
        logits_BV: Tensor,
        drawing: Drawing,
        ring: int,
        capacity: int,
        attention: FixedAttention,
    ) -> None:
        self._model, self._tape, self._drawing, self._steps = model, tape, drawing, ring
        self._attention = attention
        B, P = mask_BP.shape
        self.device = device = mask_BP.device
        self._pads_B1 = P - mask_BP.sum(dim=1, keepdim=True)
        self._position_1 = torch.full((1,), P, dtype=torch.int64, device=device)
        self._ring_at_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._fed_1 = torch.ones(1, dtype=torch.bool, device=device)
        self._ids_B1 = drawing.draw(logits_BV)
        self._mask_B11S = torch.zeros(B, 1, 1, P, dtype=model.dtype, device=device)
        self._mask_B11S.masked_fill_(mask_BP[:, None, None] == 0, -torch.inf)
        self._rings: Rings | None = None
        self._shown: list[Shown] = []
        self._make_room(past, P, capacity)

    def run(self) -> None:
        """Feed the tokens, keep what is shown, draw the next ones."""
        self._mask_B11S.index_fill_(3, self._position_1, 0)
        self._filled.upto(self._position_1)
        with self._tape.step() as shown:
            logits_BTV = self._model(
                input_ids=self._ids_B1,
                attention_mask=self._mask_B11S,
                position_ids=self._position_1 - self._pads_B1,
                use_cache=True,
                **{CACHE: self._cache},
            ).logits
        tensors = [self._fed_1, self._ids_B1, *(x for each in shown for x in each.tensors)]
        if self._rings is None:
            self._rings = Rings(tensors, self._steps)
        self._shown = [Shown(each.see, each.tensors[:0]) for each in shown]
        self._widths = [len(each.tensors) for each in shown]
        self._rings.keep(tensors, self._ring_at_1)
        self._fed_1.copy_(self._drawing.live_B.any())
        self._ids_B1.copy_(self._drawing.draw(logits_BTV[:, -1]))
        self._position_1.add_(1)
        self._ring_at_1.add_(1).remainder_(self._steps)

    def grow(self, positions: int, capacity: int) -> None:
        """Make room for more; ``positions`` are filled. Until then the step must not run."""
        self._make_room(self._cache, positions, capacity)

    def kept(self, first: int, n: int) -> list[Repeated]:
        """The n steps from number ``first`` on, for a recorder; they lie in the ring still."""
        return [(ids_B1, self._showing(tensors)) for _, ids_B1, *tensors in self._taken(first, n)]

    def in_earnest(self, first: int, n: int) -> int:
        """How many of these steps fed a token that some row drew before its end; waits for them."""
        flags = [bool(fed_1) for fed_1, *_ in self._taken(first, n)]
        return flags.index(False) if False in flags else n

    def _taken(self, first: int, n: int) -> list[tuple[Tensor, ...]]:
        return [] if self._rings is None else self._rings.taken(first, n)

    def _showing(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        def show() -> None:
            at = 0
            for each, width in zip(self._shown, self._widths, strict=True):
                each.see(*tensors[at : at + width])
                at += width

        return show

    def _make_room(self, past: Cache, positions: int, capacity: int) -> None:
        self.capacity = capacity
        self._cache = FixedCache(past, positions, capacity, self._position_1)
        mask_B11S = self._mask_B11S.new_full((*self._mask_B11S.shape[:3], capacity), -torch.inf)
        mask_B11S[..., :positions] = self._mask_B11S[..., :positions]
        self._mask_B11S = mask_B11S
        self._filled = self._attention.filled = Filled(self._pads_B1[:, 0], mask_B11S)
