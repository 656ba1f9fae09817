"""A pass over all routing of a store: how often each expert was chosen, by three ways.

DuckDB in SQL, `expert_counts` in this process, and the same on a local Ray cluster of as many
workers as there are cores (left out where Ray is not installed). All three must agree.

python benchmarks/synthetic_store.py STORE --routed 1e7
python benchmarks/bench_scan.py STORE [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from side_by_side import machine, medians

from ringlens.store import Store
from ringlens.store.maintain import scan
from ringlens.store.maintain.scan import expert_counts

QUERY = "select layer, expert, count(*) from router_choices group by all"


def by_sql(store: Store, like_LE: NDArray) -> NDArray:
    """The counts [L, E], by DuckDB."""
    counts_LE = np.zeros_like(like_LE)
    for layer, expert, n in store.sql(QUERY).fetchall():
        counts_LE[layer, expert] = n
    return counts_LE


def main() -> None:
    """Print seconds, and rows of ``routing`` a second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    with Store(options.store) as store:
        files = store.files("routing")
        rows, size = sum(f.rows for f in files), sum(f.bytes for f in files)
        scan.SHARD_BYTES = size // (4 * cores)  # so that there are shards for all
        counts_LE = expert_counts(store)
        assert np.array_equal(by_sql(store, counts_LE), counts_LE)
        variants = {
            "DuckDB": lambda: by_sql(store, counts_LE),
            "this process": lambda: expert_counts(store),
        }
        if find_spec("ray"):
            import ray

            from ringlens.store.maintain.engine_ray import RayEngine

            ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
            engine = RayEngine()
            assert np.array_equal(expert_counts(store, engine=engine), counts_LE)
            variants[f"Ray, {cores} workers"] = lambda: expert_counts(store, engine=engine)
        found = medians(variants, options.rounds)
    print(f"{machine()}; {rows:,} rows of routing in {len(files)} files, {size / 1e6:,.0f} MB")
    for name, seconds in found.items():
        print(f"{name:16s} {seconds:7.2f} s   {rows / seconds / 1e6:6.1f} million rows/s")


if __name__ == "__main__":
    main()
