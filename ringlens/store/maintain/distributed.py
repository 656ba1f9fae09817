"""Compacts a whole store with many processes, each with its own writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ringlens.store.maintain.compact import Group, compact
from ringlens.store.maintain.engine import Engine
from ringlens.store.write.writer import StoreWriter


def compact_on(
    engine: Engine, address: str, groups: Sequence[Group], on_progress: Callable[[int, int], None]
) -> None:
    """Do as `compact`, with each group on a worker of the engine and by its own writer."""
    done, total = 0, sum(file.bytes for group in groups for file in group.files)
    for size in engine.map(partial(_compact_one, address), groups):
        done += size
        on_progress(done, total)


def _compact_one(address: str, group: Group) -> int:
    with StoreWriter(address) as writer:
        compact(writer.rewriter(), [group], lambda done, total: None)
    return sum(file.bytes for file in group.files)
