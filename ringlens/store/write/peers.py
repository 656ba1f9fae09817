"""Peers: processes that write one store together, each with the layers that it owns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ringlens.errors import RinglensError, StoreError

T = TypeVar("T")
R = TypeVar("R")


class Peers(Protocol):
    """Communication between the processes of one run; values must be picklable.

    All processes call `broadcast` and `gather` in the same order. Both raise an exception of any
    type if another process is gone.
    """

    @property
    def rank(self) -> int:
        """Number of this process, 0 … size - 1; rank 0 keeps the manifest."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def primary(self) -> int:
        """Rank whose records fill ``traces`` and ``tokens``; those of other ranks are ignored."""

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks on rank 0, None elsewhere."""


@dataclass(frozen=True)
class Alone:
    """A single process without peers."""

    rank: int = 0
    size: int = 1
    primary: int = 0

    def broadcast(self, value: T) -> T:
        """Return the value."""
        return value

    def gather(self, value: T) -> list[T] | None:
        """Return the value in a list."""
        return [value]


ALONE = Alone()


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """Outcome of work on one rank: a value, or a message about its failure."""

    value: T | None = None
    failure: str | None = None
    kind: type[StoreError] = StoreError


def agreed(peers: Peers, mine: Callable[[], T], then: Callable[[list[T]], R]) -> R:
    """Run ``mine`` on every rank and ``then`` on rank 0; all ranks succeed or all fail.

    Args:
        peers: The ranks.
        mine: Work of every rank.
        then: Work of rank 0, given the results of all ranks; skipped if one of them failed.

    Returns:
        Result of ``then``, on every rank.

    Raises:
        StoreError: Work failed on one of several ranks; the message says where and why.
        Exception: Whatever ``mine`` or ``then`` raised, if the process is alone or the error is
            not one of ringlens' own.
    """
    own, error = _attempt(peers, mine)
    # Failures travel as values: a rank that raised before `gather` would leave the others waiting.
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
    # Alone, the original exception keeps its traceback. An interrupt, or an error that is not ours,
    # is raised as it is on the rank where it occurred.
    if error is not None and (peers.size == 1 or not isinstance(error, RinglensError)):
        raise error
    if common.failure is not None:
        raise common.kind(common.failure) from error
    return common.value  # type: ignore[return-value]


def _attempt(peers: Peers, work: Callable[[], T]) -> tuple[Outcome[T], BaseException | None]:
    """Run work; return its outcome for the peers, and the error itself, be it an interrupt."""
    try:
        return Outcome(work()), None
    except BaseException as error:  # noqa: BLE001  `agreed` raises it once all ranks know of it
        message = (
            str(error) if isinstance(error, RinglensError) else f"{type(error).__name__}: {error}"
        )
        kind = type(error) if isinstance(error, StoreError) else StoreError
        return Outcome(failure=f"rank {peers.rank}: {message}", kind=kind), error
