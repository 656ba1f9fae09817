"""Peers: the processes that write one store together, each the layers that it owns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ringlens.errors import RinglensError, StoreError

T = TypeVar("T")
R = TypeVar("R")


class Peers(Protocol):
    """How the processes of one run talk to each other; values may be anything that pickles.

    `broadcast` and `gather` are called by all of them in the same order. They raise, of whatever
    kind, when another process is gone.
    """

    @property
    def rank(self) -> int:
        """This process, 0 … size - 1; rank 0 keeps the manifest."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    @property
    def primary(self) -> int:
        """The rank whose records give ``traces`` and ``tokens``; others' are not written."""

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""

    def gather(self, value: T) -> list[T] | None:
        """Everyone's values by rank, on rank 0; None elsewhere."""


@dataclass(frozen=True)
class Alone:
    """A process that writes on its own."""

    rank: int = 0
    size: int = 1
    primary: int = 0

    def broadcast(self, value: T) -> T:
        """The value."""
        return value

    def gather(self, value: T) -> list[T] | None:
        """The value in a list."""
        return [value]


ALONE = Alone()


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of work on one rank: a value, or a sentence about its failure."""

    value: T | None = None
    failure: str | None = None
    kind: type[StoreError] = StoreError


def agreed(peers: Peers, mine: Callable[[], T], then: Callable[[list[T]], R]) -> R:
    """Every rank does ``mine``, rank 0 makes one value of all results, and every rank gets that.

    Nobody goes on unless all succeeded: where one rank fails, each of them raises.

    Args:
        peers: The ranks.
        mine: Work of every rank.
        then: Work of rank 0, given everyone's results by rank; skipped if one of them failed.

    Returns:
        What ``then`` returned, on every rank.

    Raises:
        StoreError: Work failed on one of several ranks; it says on which and why.
        Exception: What ``mine`` or ``then`` raised, where the process is alone or the error is
            none of ringlens' own.
    """
    own, error = _attempt(peers, mine)
    results = peers.gather(own)
    common: Outcome[R] = Outcome()
    if results is not None:
        failed = [result for result in results if result.failure is not None]
        if failed:
            common = Outcome(failure=failed[0].failure, kind=failed[0].kind)
        else:
            values = [result.value for result in results]
            common, later = _attempt(peers, lambda: then(values))  # type: ignore[arg-type]
            error = error or later
    common = peers.broadcast(common)
    if error is not None and (peers.size == 1 or not isinstance(error, RinglensError)):
        raise error
    if common.failure is not None:
        raise common.kind(common.failure) from error
    return common.value  # type: ignore[return-value]


def _attempt(peers: Peers, work: Callable[[], T]) -> tuple[Outcome[T], BaseException | None]:
    """Work's outcome for the peers, and the error itself; an interrupt is told to them as well."""
    try:
        return Outcome(work()), None
    except BaseException as error:  # noqa: BLE001  `agreed` raises it once all know
        said = (
            str(error) if isinstance(error, RinglensError) else f"{type(error).__name__}: {error}"
        )
        kind = type(error) if isinstance(error, StoreError) else StoreError
        return Outcome(failure=f"rank {peers.rank}: {said}", kind=kind), error
