"""What is seen layer by layer, and sent on its way a layer at a time.

Shape letters: B batch, T tokens of a forward.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from torch import Tensor

from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import PendingTensors


class SentLayers:
    """The forwards of a block, by layer; the base of instruments that see one layer after another.

    Args:
        tape: Stands between hooks and what is kept.

    Attributes:
        start: First position, padding counted, of what `take` gives.
    """

    on_tape = True

    def __init__(self, tape: Tape) -> None:
        self.start = 0
        self._tape = tape
        self._shape = (0, 0)
        self._seen: dict[int, list[Tensor]] = defaultdict(list)
        self._shapes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._sent: dict[int, PendingTensors] = {}

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins, after which ``stop`` positions are in the cache."""
        B, T = token_ids_BT.shape
        if not self._seen and not self._sent:
            self.start = stop - T
        self._shape = B, T

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time, by layer."""
        for layer in list(self._seen):
            self._send(layer)
        sent, self._sent = self._sent, {}
        return sent

    def _see(self, layer: int, *seen: Tensor) -> None:
        """What this forward shows of a layer."""
        self._tape.show(partial(self._keep, layer), *seen)

    def _keep(self, layer: int, *seen: Tensor) -> None:
        """Keep it; of many tokens it is sent at once."""
        self._seen[layer] += seen
        self._shapes[layer].append(self._shape)
        if self._shape[1] > 1:
            self._send(layer)  # at once: the copy then runs beside the next layers

    def _send(self, layer: int) -> None:
        """Move what was seen of a layer, with its shapes, to ``_sent``."""
        raise NotImplementedError
