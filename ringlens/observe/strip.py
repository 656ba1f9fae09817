"""A growing array that is taken away from the front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Strip:
    """Arrays joined along one axis, taken piece by piece.

    Args:
        axis: The axis that grows.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self._parts: list[NDArray] = []

    def __len__(self) -> int:
        return sum(part.shape[self.axis] for part in self._parts)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(part.nbytes for part in self._parts)

    def append(self, part: NDArray) -> None:
        """Add at the end. Copied, so that a small part keeps no large array alive."""
        self._parts.append(part.copy())

    def take(self, length: int) -> NDArray:
        """Remove the first ``length`` from the front and return them."""
        joined = np.concatenate(self._parts, axis=self.axis)
        taken, rest = np.split(joined, [length], axis=self.axis)
        self._parts = [rest.copy()] if rest.shape[self.axis] else []
        return taken
