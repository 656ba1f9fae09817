"""Usage of the scopes asked for last, so that a click does not scan the routing table again."""

from __future__ import annotations

import threading

from ringlens.app import queries
from ringlens.app import usage as usages
from ringlens.app.queries import Scope
from ringlens.app.usage import Usage
from ringlens.store import Store


class UsageCache:
    """Usage of the scopes asked for last; a new commit makes them anew. Safe for threads."""

    KEPT = 8

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[Scope, int], Usage] = {}

    def get(self, scope: Scope) -> Usage:
        """The usage of a scope, from one scan of its routing rows."""
        key = (scope, queries.version(self._store))
        with self._lock:  # also keeps eight threads from scanning for the same answer
            if key not in self._kept:
                while len(self._kept) >= self.KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = read_usage(self._store, scope)
            return self._kept[key]


def read_usage(store: Store, scope: Scope) -> Usage:
    """Count the experts of a scope."""
    run = queries.run(store, scope.run_id)
    return usages.count(
        queries.choices(store, scope),
        queries.tokens_by_phase(store, scope),
        run["sparse_layers"],
        run["experts"],
        run["experts_per_token"],
        run["groups"],
    )
