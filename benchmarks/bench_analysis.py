"""How long each analysis takes over a store, warm, and what it holds in memory.

A store of 10⁷ routed rows: python benchmarks/synthetic_store.py STORE --routed 1e7 --traces 16

python benchmarks/bench_analysis.py STORE [--rounds 5] [--only contrast]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from side_by_side import machine

from ringlens import analysis
from ringlens.errors import RinglensError
from ringlens.store import Store

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"
CERTAIN, UNSURE = f"{THINK} and entropy <= 0.5", f"{THINK} and entropy > 0.5"

ANALYSES: dict[str, Callable[[Store], object]] = {
    "expert_load, sums": lambda store: analysis.expert_load(store, THINK),
    "expert_load, scan": lambda store: analysis.expert_load(store, UNSURE),
    "layer_balance, sums": lambda store: analysis.layer_balance(store, THINK),
    "selection_causes": lambda store: analysis.selection_causes(store, THINK),
    "group_displacements": lambda store: analysis.group_displacements(store, THINK),
    "router_entropy": lambda store: analysis.router_entropy(store, THINK),
    "association, sums": lambda store: analysis.association(store, "phase", "phase <> 'prompt'"),
    "token_experts": lambda store: analysis.token_experts(store, THINK),
    "coactivation": lambda store: analysis.coactivation(store, THINK),
    "transitions": lambda store: analysis.transitions(store, THINK),
    "committees": lambda store: analysis.committees(store, THINK),
    "committees, within groups": lambda store: analysis.committees(store, THINK, within="group"),
    "routing_path": lambda store: analysis.routing_path(store, THINK),
    "path_clusters": lambda store: analysis.path_clusters(store, "phase <> 'prompt'"),
    "bias_audit": lambda store: analysis.bias_audit(store, THINK),
    "expert_bias, sums": lambda store: analysis.expert_bias(store, THINK),
    "saturation": lambda store: saturated(store),
    "predictability": lambda store: analysis.predictability(store, THINK, draws=100),
    "contrast, sums": lambda store: analysis.contrast(store, THINK, ANSWER, draws=0),
    "contrast, sums, intervals": lambda store: analysis.contrast(store, THINK, ANSWER),
    "contrast, scan": lambda store: analysis.contrast(store, UNSURE, CERTAIN, draws=0),
    "contrast, equal tokens": lambda store: analysis.contrast(
        store, THINK, ANSWER, within="token", draws=0
    ),
    "routing_shift, sums": lambda store: analysis.routing_shift(store, THINK, ANSWER),
    "shift_along": lambda store: analysis.shift_along(store, 1),
}


def saturated(store: Store) -> object:
    """Compare a store with itself under another name, as if it were another checkpoint's."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "earlier"
        link.symlink_to(Path(store.address).resolve())
        with Store(link) as earlier:
            last = analysis.Checkpoint("last", store)
            return analysis.saturation([analysis.Checkpoint("earlier", earlier), last], THINK)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="analyses whose name holds this")
    given = parser.parse_args()
    with Store(given.store) as store:
        rows = sum(file.rows for file in store.files("routing"))
        (k, traces) = store.sql(
            "select max(experts_per_token), (select count(*) from traces) from runs"
        ).fetchall()[0]
        print(f"{machine()}, load {os.getloadavg()[0]:.1f}")
        print(f"{given.store}: {rows * k:,} routed rows, {traces} traces")
        print(
            f"{'seconds':28s} {'first':>7s} {'median':>7s} {'quartiles':>15s} {'CPU':>7s} peak MiB"
        )
        for name, run in ANALYSES.items():
            if given.only in name:
                print(f"{name:28s} {measured(store, run, given.rounds)}", flush=True)


def measured(store: Store, run: Callable[[Store], object], rounds: int) -> str:
    """First call, then the median of further ones, their CPU time, and the peak of the process."""
    try:
        first, *_ = timed(store, run)
        times = [timed(store, run) for _ in range(rounds)]
    except RinglensError as error:
        return f"not measured: {error}"
    clock = [t for t, _ in times]
    low, median, high = statistics.quantiles(clock, n=4)
    cpu = statistics.median(c for _, c in times)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{first:7.2f} {median:7.2f} {low:7.2f}–{high:<7.2f} {cpu:7.2f} {peak:8.0f}"


def timed(store: Store, run: Callable[[Store], object]) -> tuple[float, float]:
    """Seconds of the clock, and of all cores."""
    start, cpu = time.perf_counter(), time.process_time()
    run(store)
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
