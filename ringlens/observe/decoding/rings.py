"""Rings on the device: what repeated steps have shown, until it is taken in.

All that a step shows is brought side by side in one row, by one copy a dtype, and the row goes into
its place in the ring: a few kernels, however many tensors there are.

Shape letters: R steps of the ring, n of them, b bytes of a row in words of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ringlens.errors import ObservationError

# Where a tensor may begin in a row, in bytes: any type, and the widest loads of a kernel.
ALIGNED = 16


class Rings:
    """What the last steps have shown, in memory that does not move.

    Args:
        shown: What a step shows; all steps show tensors of the same shapes, dtypes and device.
        steps: Steps that there is room for.
    """

    def __init__(self, shown: Sequence[Tensor], steps: int) -> None:
        self.steps = steps
        self._kinds = [(tuple(x.shape), x.dtype) for x in shown]
        sizes = [prod(x.shape) * x.element_size() for x in shown]
        starts, stop = [], 0
        for size in sizes:
            starts.append(stop)
            stop += -(-size // ALIGNED) * ALIGNED
        device = shown[0].device
        self._row_b = torch.zeros(stop // 8, dtype=torch.int64, device=device)
        self._ring_Rb = torch.zeros(steps, stop // 8, dtype=torch.int64, device=device)
        self._parts = [slice(a, a + size) for a, size in zip(starts, sizes, strict=True)]
        row = self._row_b.view(torch.uint8)
        self._places: dict[torch.dtype, list[Tensor]] = {}
        for part, (_, dtype) in zip(self._parts, self._kinds, strict=True):
            self._places.setdefault(dtype, []).append(row[part].view(dtype))

    def keep(self, shown: Sequence[Tensor], at_1: Tensor) -> None:
        """Copy what a step shows to the place ``at_1`` of the ring.

        Raises:
            ObservationError: It shows other tensors than the steps before it.
        """
        if [(tuple(x.shape), x.dtype) for x in shown] != self._kinds:
            raise ObservationError(
                "a decoding step shows other tensors than the one before it; capture with "
                "decode='eager'."
            )
        flat: dict[torch.dtype, list[Tensor]] = {}
        for x in shown:
            flat.setdefault(x.dtype, []).append(x.reshape(-1))
        for dtype, tensors in flat.items():
            torch._foreach_copy_(self._places[dtype], tensors)
        self._ring_Rb.index_copy_(0, at_1, self._row_b[None])

    def taken(self, first: int, n: int) -> list[tuple[Tensor, ...]]:
        """What the n steps from number ``first`` on have shown, by step; nobody writes to it."""
        at = first % self.steps
        rows_nb = torch.cat(
            (self._ring_Rb[at : at + n], self._ring_Rb[: max(0, at + n - self.steps)])
        )
        row_bytes = rows_nb.view(torch.uint8)
        found = [
            row_bytes[:, part].view(dtype).unflatten(1, shape).unbind(0)
            for part, (shape, dtype) in zip(self._parts, self._kinds, strict=True)
        ]
        return list(zip(*found, strict=True))
