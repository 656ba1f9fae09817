"""Journal: what makes changes of a manifest last, and shows those of others."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Journal(Protocol):
    """How the transactions of a manifest reach other processes, and theirs this one."""

    def transact(self, work: Callable[[], R]) -> R:
        """Run ``work`` as one transaction, again if another writer was faster."""

    def catch_up(self) -> None:
        """Show what other processes have committed."""


class SqliteJournal:
    """SQLite's own: one file, shared by the processes of one machine."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def transact(self, work: Callable[[], R]) -> R:
        """Run ``work`` as one transaction."""
        try:
            self._connection.execute("begin immediate")
            result = work()
            if self._connection.in_transaction:
                self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise
        return result

    def catch_up(self) -> None:
        """Nothing to do: every statement reads the newest commit."""


class Journaled(Protocol):
    """What has a journal."""

    journal: Journal


S = TypeVar("S", bound=Journaled)


def transaction(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method one transaction of its object's journal.

    The method may be run several times: again whenever another writer was faster. One that ends
    the transaction itself (``rollback``) has changed nothing.
    """

    @wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.journal.transact(lambda: method(self, *args, **kwargs))

    return run
