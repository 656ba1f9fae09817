"""A growing array over positions that is taken away from the front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Strip:
    """Arrays [L, T, …] of consecutive positions, joined and taken piece by piece.

    Attributes:
        first: Position of the first column held.
    """

    def __init__(self) -> None:
        self.first = 0
        self._parts: list[NDArray] = []

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(part.nbytes for part in self._parts)

    def append(self, part: NDArray, first: int) -> None:
        """Add positions from ``first`` on. Copied: a small part must keep no large array alive."""
        if not self._parts:
            self.first = first
        self._parts.append(part.copy())

    def take(self, stop: int) -> NDArray:
        """Remove the positions before ``stop`` and return them; `first` moves up to it."""
        joined = np.concatenate(self._parts, axis=1)
        length = min(max(stop - self.first, 0), joined.shape[1])
        taken, rest = np.split(joined, [length], axis=1)
        self._parts, self.first = [rest.copy()], self.first + length
        return taken
