"""What the pages read from: the store, and what the process keeps of it."""

from __future__ import annotations

from ringlens.app.catalogue import Catalogue
from ringlens.app.evidence import EvidenceCache
from ringlens.app.usage_cache import UsageCache
from ringlens.store import Store


class Sources:
    """An open store with the process's copies and caches of it; all are safe for threads.

    Attributes:
        store: The store.
        catalogue: Its small tables in memory.
        usage: Usage of experts of the scopes asked for last.
        evidence: Choices of the layers asked for last.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.catalogue = Catalogue(store)
        self.usage = UsageCache(store)
        self.evidence = EvidenceCache(store)
