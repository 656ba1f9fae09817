"""Traces of an experiment, shared out among the processes that torchrun or accelerate started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ringlens.observe.pipeline.ranks import RankRole

T = TypeVar("T")


def shared_out(
    here: RankRole, trace_ids: Sequence[int], work: Callable[[int], T]
) -> Iterator[Mapping[int, T]]:
    """Work on traces in turns, one trace a process.

    Args:
        here: This process among all, which call this together.
        trace_ids: The traces.
        work: What is done about one.

    Yields:
        What all processes found in a turn, by trace; the same in each of them.
    """
    rank, size = here.share
    for start in range(0, len(trace_ids), size):
        turn = trace_ids[start : start + size]
        own = work(turn[rank]) if rank < len(turn) else None
        found = here.everyone.broadcast(here.everyone.gather(own))
        assert found is not None  # rank 0 has gathered
        yield {
            trace_id: each for trace_id, each in zip(turn, found, strict=False) if each is not None
        }
