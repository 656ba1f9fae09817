"""Stores that are compacted, and their rows."""

from ringlens.store import Store, StoreWriter
from ringlens.store.maintain import compact


def run_compact(path, **options):
    with Store(path) as store, StoreWriter(path) as writer:
        groups = compact.plan(store, **options)
        compact.compact(writer.rewriter(), groups, lambda done, total: None)
    return groups


def rows(store):
    """Every row of every table that is not a sum, in one order."""
    summed = ("usage_traces", "usage_blocks")
    tables = [t for t in store.tables() if t.name not in summed]
    return {t.name: store.sql(f"from {t.name} order by all").fetchall() for t in tables}
