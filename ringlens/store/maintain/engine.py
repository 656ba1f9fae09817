"""Engine: runs a pass over a whole store, in this process or on a cluster.

A pass applies a function to shards, such as lists of files. Function and shards may be pickled to
other machines, so they name the store by its address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

S = TypeVar("S")
R = TypeVar("R")


class Engine(Protocol):
    """Applies a function to shards."""

    def map(self, function: Callable[[S], R], shards: Sequence[S]) -> Iterator[R]:
        """Yield the results of the shards as they become available, in any order.

        Raises:
            RinglensError: The function raised it; no further shard is started.
        """


class LocalEngine:
    """Runs all shards in this process."""

    def map(self, function: Callable[[S], R], shards: Sequence[S]) -> Iterator[R]:
        """Yield the results of the shards, one after the other."""
        return map(function, shards)


LOCAL = LocalEngine()
