"""What the pages read from: the store, and what the process keeps of it."""

from __future__ import annotations

from contextlib import suppress

from ringlens.app.shared import queries
from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.evidence import EvidenceCache
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.errors import RinglensError
from ringlens.store import Store


class Sources:
    """An open store with the process's copies and caches of it; all are safe for threads.

    Attributes:
        store: The store.
        catalogue: Its small tables in memory.
        usage: Usage of experts of the scopes asked for last.
        evidence: Choices of the layers asked for last.
        prefix: Path below which the browser sees the pages.
    """

    def __init__(self, store: Store, prefix: str = "/") -> None:
        self.store = store
        self.prefix = prefix
        self.catalogue = Catalogue(store)
        self.usage = UsageCache(store)
        self.evidence = EvidenceCache(store)

    def warm(self) -> None:
        """Read what the first pages need ahead of them: of a thousand traces it takes a second."""
        with suppress(RinglensError):  # the page that needs it will say it
            newest = queries.runs(self.catalogue)[:1]
            for run in newest:
                self.usage.get(Scope(run["run_id"]))
