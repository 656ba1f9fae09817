"""What the pages read from: the store, and what the process keeps of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ringlens.app.shared import queries
from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.app.web.writing import READ_ONLY, Writing
from ringlens.errors import RinglensError
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.live.thinker import Thinker

T = TypeVar("T")


class Sources:
    """An open store with the process's copies and caches of it; all are safe for threads.

    Attributes:
        store: The store.
        catalogue: Its small tables in memory.
        usage: Usage of experts of the last scopes.
        prefix: Path below which the browser sees the pages.
        thinker: The model that thinks live, which outlives this; None without one.
        writing: Whether pages may write annotations, and in whose name.
    """

    def __init__(
        self,
        store: Store,
        prefix: str = "/",
        thinker: Thinker | None = None,
        writing: Writing = READ_ONLY,
    ) -> None:
        self.store = store
        self.writing = writing
        self.thinker = thinker
        self.prefix = prefix
        self.catalogue = Catalogue(store)
        self.usage = UsageCache(store)
        self._lock = threading.Lock()
        self._made: dict[Callable[[Store], Any], Any] = {}

    def one(self, make: Callable[[Store], T]) -> T:
        """Return what ``make`` makes of the store, made once and kept as long as this lives."""
        with self._lock:
            if make not in self._made:
                self._made[make] = make(self.store)
            return self._made[make]

    def warm(self) -> None:
        """Read what the first pages need ahead of them: for a thousand traces it takes a second."""
        with suppress(RinglensError):  # the page that needs it will say it
            newest = queries.runs(self.catalogue)[:1]
            for run in newest:
                self.usage.get(Scope(run["run_id"]))

    def close(self) -> None:
        """Close what pages made of the store, where it can be closed, and the store."""
        with self._lock:
            made, self._made = self._made, {}
        for each in made.values():
            if hasattr(each, "close"):
                each.close()
        self.store.close()
