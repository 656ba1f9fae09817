"""Parts of a store that are counted apart, in this process or on a cluster, and then added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ringlens.errors import ConfigError, StoreError
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.read.store import Store

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

S = TypeVar("S")
R = TypeVar("R")

PART_BYTES = 64 * 2**20
"""Bytes of routing files in a part, about."""

Traces = tuple[int, int]
"""First and last id of the traces of a part."""

ALL: Traces = (0, 2**63 - 1)
"""Every trace."""


def each(
    store: Source, function: Callable[[Source, S], R], parts: Sequence[S], engine: Engine = LOCAL
) -> list[R]:
    """Apply a function to a store and each part of it.

    Args:
        store: The store; a cluster opens it by its address.
        function: Counts one part; must be picklable for a cluster.
        parts: What tells the parts apart.
        engine: Runs the function.

    Returns:
        The results in the order of the parts.

    Raises:
        ConfigError: A cluster is asked for what is no store, such as a shuffled one.
        StoreError: The store has changed since the parts were made.
    """
    return each_of((store,), function, parts, engine)


def each_of(
    stores: Sequence[Source],
    function: Callable[..., R],
    parts: Sequence[S],
    engine: Engine = LOCAL,
) -> list[R]:
    """Apply a function to several stores and each part, as `each` does to one."""
    if engine is LOCAL:
        return [function(*stores, part) for part in parts]
    opened = []
    for store in stores:
        if not isinstance(store, Store):
            raise ConfigError(
                f"engine = {type(engine).__name__}: only a Store can be opened on other machines, "
                f"and this is a {type(store).__name__}; leave the engine out."
            )
        opened.append(_Address(store.address, store.verify, store.definitions().sequence))
    task: _Task[S, R] = _Task(tuple(opened), function)
    found = dict(engine.map(task, list(enumerate(parts))))
    return [found[place] for place in range(len(parts))]


def by_traces(store: Source, engine: Engine = LOCAL) -> list[Traces]:
    """Divide a store into ranges of traces whose routing has about `PART_BYTES`.

    In this process all traces are one part.
    """
    if engine is LOCAL or not isinstance(store, Store):
        return [ALL]
    lasts, size, last = [], 0, -1
    for file in sorted(store.files("routing"), key=lambda file: file.first_trace):
        # A trace that is written in pieces has several files, which belong to one part.
        if size >= PART_BYTES and file.first_trace > last:
            lasts.append(last)
            size = 0
        size += file.bytes
        last = max(last, file.last_trace)
    firsts = [ALL[0], *(last + 1 for last in lasts)]
    return list(zip(firsts, [*lasts, ALL[1]], strict=True))


class _Address(NamedTuple):
    """A store as it was when parts were made."""

    address: str
    verify: bool | None
    sequence: int

    def open(self) -> Store:
        """Open it, if it is still the same."""
        store = Store(self.address, verify=self.verify)
        if store.definitions().sequence != self.sequence:
            store.close()
            raise StoreError(
                f"{self.address} has changed while it was counted: ask again, or wait until "
                "what writes to it is done."
            )
        return store


@dataclass(frozen=True)
class _Task(Generic[S, R]):
    """Counts one part, on any machine."""

    stores: tuple[_Address, ...]
    function: Callable[..., R]

    def __call__(self, part: tuple[int, S]) -> tuple[int, R]:
        place, which = part
        with ExitStack() as stack:
            stores = [stack.enter_context(each.open()) for each in self.stores]
            return place, self.function(*stores, which)
