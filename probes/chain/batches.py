"""Parts of a list that run side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Parts of ``size`` items, the last of what is left."""
    for first in range(0, len(items), size):
        yield list(items[first : first + size])
