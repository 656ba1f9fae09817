"""What the sandbox costs: a worker's start, and a query in it against the same query outside.

    python benchmarks/bench_sandbox.py STORE

Both sides of a ratio are timed in turn within one run; medians.
"""

import argparse
import statistics
import time

from ringlens.errors import StoreError
from ringlens.sandbox.sandbox import Limits, Sandbox
from ringlens.store import Store

QUERIES = (
    "select 1",
    "select * from traces limit 100",
    "select phase, count(*) from tokens group by all",
    "select layer, expert, count(*) from router_choices group by all",
)
STARTS, ROUNDS = 7, 41


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def started(store):
    """A worker from nothing to its first answer."""

    def work():
        with Sandbox(store, Limits(workers=1)) as box:
            box.sql("select 1")

    return statistics.median(seconds(work) for _ in range(STARTS))


def stopped(store, query, limit):
    """From asking for too much to the next answer."""
    with Sandbox(store, Limits(workers=1, seconds=limit)) as box:
        box.sql("select 1")

        def work():
            try:
                box.sql(query)
            except StoreError:
                box.sql("select 1")

        return seconds(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="store to query")
    with Store(parser.parse_args().store) as store:
        print(f"worker from nothing to its first answer: {1000 * started(store):.0f} ms")
        with Sandbox(store, Limits(workers=1)) as box:
            for query in QUERIES:
                box.sql(query)
                pairs = [
                    (
                        seconds(lambda q=query: box.sql(q)),
                        seconds(lambda q=query: store.sql(q).to_arrow_table()),
                    )
                    for _ in range(ROUNDS)
                ]
                inside, outside = (
                    1000 * statistics.median(side) for side in zip(*pairs, strict=True)
                )
                print(f"{query}: {inside:.1f} ms inside, {outside:.1f} ms outside")
        for query in ("select pg_sleep(60)", "select count(*) from range(1000000000000)"):
            print(f"{query}: next answer after {stopped(store, query, 2.0):.2f} s, limit 2 s")


if __name__ == "__main__":
    main()
