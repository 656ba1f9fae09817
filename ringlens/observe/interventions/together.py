"""Interventions for a block, also in several processes: attached in each, warned of once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ringlens.observe.interventions.attached import Attached
from ringlens.observe.interventions.effect import Effect, Numbers, warn

if TYPE_CHECKING:
    from ringlens.store.write.peers import Peers


Join = Callable[[Sequence[Numbers]], Numbers]
"""Joins the counts of all processes."""


@contextmanager
def attached(acting: Attached, everyone: Peers, join: Join) -> Iterator[Effect]:
    """Act for as long as the block runs, then warn of what changed nothing.

    All processes of a run call this together.

    Args:
        acting: The interventions.
        everyone: The processes of the run.
        join: Joins their counts.

    Raises:
        ObservationError: Others are attached already.
    """
    with acting.attached() as effect:
        yield effect
    settle(effect, everyone, join)


def settle(effect: Effect, everyone: Peers, join: Join) -> None:
    """Keep the counts of all processes, and warn of what changed nothing.

    All processes of a run call this together, when nothing else of theirs sends messages.
    """

    def joined(mine: Numbers) -> Numbers:
        parts = everyone.gather(mine)
        return everyone.broadcast(mine if parts is None else join(parts))

    effect.close(joined)
    if everyone.rank == 0:
        warn(effect.changes)
