"""Engine: where a pass over a whole store runs. Here, one share after the other; or on a cluster.

A pass is a function of one share, such as some files. The function and its shares are pickled to
where they run, so they name the store by its address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

S = TypeVar("S")
R = TypeVar("R")


class Engine(Protocol):
    """Runs the shares of a pass."""

    def map(self, function: Callable[[S], R], shares: Sequence[S]) -> Iterator[R]:
        """The function's results, each as soon as it is there, in any order.

        Raises:
            RinglensError: What the function raised, as it did; no further share is begun.
        """


class Here:
    """This process."""

    def map(self, function: Callable[[S], R], shares: Sequence[S]) -> Iterator[R]:
        """The function's results, one after the other."""
        return map(function, shares)


HERE = Here()
