"""Stores to delete from."""

from records import random_run, random_trace
from workers import rich_trace

from ringlens.store import StoreWriter

RUN = random_run()


OTHER = random_run(seed=1, layers=3, dense=0, experts=300, groups=2, groups_kept=1, k=4, heads=2)


TRACES = [rich_trace(n, n) for n in (40, 9, 300)]


def make(path):
    """Two runs, one of them of a larger model; a replay of trace 2 and a result of a probe."""
    with StoreWriter(path) as writer:
        first = writer.start_run(RUN)
        writer.commit(first, TRACES[:2])
        writer.commit(first, TRACES[2:])
        writer.finish_run(first)
        second = writer.start_run(OTHER)
        replay = random_trace(OTHER, 20, seed=7, source_trace_id=2)
        writer.commit(second, [replay, random_trace(OTHER, 30, seed=8)])
        writer.finish_run(second)
    return first, second


def without(found, keep):
    """Rows as `rows` gives them, of the traces that ``keep`` says."""
    tables = {name: table for name, table in found.items() if name not in ("runs", "experts")}
    place = {"probes": 2}  # of trace_id among the columns
    return {
        name: [row for row in table if keep(row[place.get(name, 0)])]
        for name, table in tables.items()
    }
