"""Journal: makes changes of a manifest durable and shows those of other processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Journal(Protocol):
    """Carries the transactions of a manifest to other processes, and theirs to this one."""

    def transact(self, work: Callable[[], R]) -> R:
        """Run ``work`` as one transaction; retry if another writer was faster."""

    def catch_up(self) -> None:
        """Make visible what other processes have committed."""


class SqliteJournal:
    """SQLite's own journal: one file, shared by the processes of one machine."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def transact(self, work: Callable[[], R]) -> R:
        """Run ``work`` as one transaction."""
        try:
            # Immediate: take the write lock before `work` reads. A plain "begin" would take it at
            # the first write, when SQLite fails at once if another writer has committed since.
            self._connection.execute("begin immediate")
            result = work()
            if self._connection.in_transaction:  # else `work` rolled back
                self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise
        return result

    def catch_up(self) -> None:
        """Do nothing: every statement reads the newest commit."""


class Journaled(Protocol):
    """An object that has a journal."""

    journal: Journal


S = TypeVar("S", bound=Journaled)


def transaction(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run a method as one transaction of its object's journal.

    The method runs again whenever another writer was faster, so it must have no other effects. It
    may end the transaction itself with ``rollback``, which leaves the manifest unchanged.
    """

    @wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.journal.transact(lambda: method(self, *args, **kwargs))

    return run
