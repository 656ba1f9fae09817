"""What it costs to compare files with their checksums before they are first read.

Queries of a synthetic store of Ring-1T's shape, each in a process of its own: CPU seconds of the
query, without and with the comparison, and of the same query again.

python benchmarks/bench_verify.py [--routed 2e7] [--rounds 5]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import machine
from synthetic_store import make

from ringlens.store import Store

QUERIES = {
    "one trace, one layer": None,
    "usage from a rollup": "select layer, expert, sum(n) from expert_usage group by all",
    "usage of one layer": "select expert, count(*) from router_choices where layer = 7 group by 1",
    "usage of all layers": "select layer, expert, count(*) from router_choices group by all",
    "all of routing": "select sum(list_sum(weights)), sum(list_sum(affinities)), sum(entropy), "
    "sum(margin), sum(group_margin), sum(list_sum(expert_ids)) from routing",
}


def timed(path: Path, query: str | None, verify: bool) -> tuple[float, float, float]:
    """CPU seconds of opening a store, of a query, and of the query again."""
    seconds = []
    start = time.process_time()
    with Store(path, verify=verify) as store:
        for _ in range(3):
            seconds.append(time.process_time() - start)
            start = time.process_time()
            if query is None:
                store.trace(3).routing(7)
            else:
                store.sql(query).fetchall()
    return seconds[0], seconds[1], seconds[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routed", type=float, default=2e7)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(machine())
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        tokens = make(path, int(given.routed))
        with Store(path) as store:
            files = store.committed()
        size = sum(file.bytes for file in files if file.table == "routing")
        print(f"{tokens:,} tokens, {len(files)} files, routing {size / 1e6:.0f} MB")
        for name, query in QUERIES.items():
            found = []
            for verify in (False, True):
                with context.Pool(1, maxtasksperchild=1) as pool:
                    work = [(path, query, verify)] * given.rounds
                    rounds = pool.starmap(timed, work, chunksize=1)
                found += [statistics.median(column) for column in zip(*rounds, strict=True)]
            _, without, again, _, first, later = found
            print(
                f"{name:22} without {without:7.3f} s, again {again:7.3f} s; verified "
                f"{first:7.3f} s ({first / without - 1:+.0%}), again {later:7.3f} s"
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
