"""How long each analysis takes over a store, warm, and what it holds in memory.

python benchmarks/bench_analysis.py STORE [--rounds 5] [--only contrast]
python benchmarks/bench_analysis.py --routed 1e7 1e8 [--folder FOLDER]

The second makes stores of so many routed rows (`synthetic_store.py`; 10⁸ take 0.7 GB and some two
minutes) and keeps them in the folder, so that another run finds them. Each analysis runs in a
process of its own, whose peak memory is the analysis's and the libraries'; its queries may take
`MEMORY`. A line that misses the goals (0.3 s where sums answer, else 2 s over 10⁷ rows and 10 s
over 10⁸; 2 GiB) ends with what it misses.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from side_by_side import machine
from synthetic_store import ROUTED_A_TOKEN, TYPICAL, make

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


GOALS = ((1.5e7, 2.0), (1.5e8, 10.0))
"""Seconds of analyses that scan, by the most routed rows."""

SUMS_GOAL = 0.3
"""Seconds of analyses that sums answer."""

LEAST = 16
"""Fewest traces of a store that is made."""

MEMORY = "1GB"
"""What queries may take of it; the rest is for what numpy and pandas hold."""

MEMORY_GOAL = 2048
"""Peak of a process, MiB."""


def main() -> None:
    """Print a table for each store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, nargs="?")
    parser.add_argument("--routed", type=float, nargs="+", default=[], help="stores to make")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "routed")
    parser.add_argument("--rounds", type=int, default=5, help="0: the first call only")
    parser.add_argument("--only", default="", help="analyses whose name holds this")
    given = parser.parse_args()
    if (given.store is None) == (not given.routed):
        parser.error("give a store, or --routed")
    stores = [given.store] if given.store else []
    stores += [made(given.folder, routed) for routed in given.routed]
    for store in stores:
        report(store, given.rounds, given.only)


def made(folder: Path, routed: float) -> Path:
    """A store of so many routed rows in at least `LEAST` traces; made if the folder has none."""
    path = folder / f"{routed:.0e}"
    if not path.exists():
        start = time.perf_counter()
        unfinished = path.with_name(f"{path.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished, int(routed), max(LEAST, round(routed / ROUTED_A_TOKEN / TYPICAL)))
        unfinished.rename(path)
        print(f"{path}: made in {time.perf_counter() - start:.0f} s", flush=True)
    return path


def report(path: Path, rounds: int, only: str) -> None:
    """Print the table of one store."""
    with Store(path) as store:
        rows = sum(file.rows for file in store.files("routing"))
        (k, traces) = store.sql(
            "select max(experts_per_token), (select count(*) from traces) from runs"
        ).fetchall()[0]
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}")
    print(f"{path}: {rows * k:,} routed rows, {traces} traces")
    print(
        f"{'seconds':28s} {'first':>7s} {'median':>7s} {'quartiles':>15s} {'CPU':>7s} "
        f"{'rows/s':>8s} peak MiB"
    )
    context = multiprocessing.get_context("spawn")
    for name in ANALYSES:
        if only in name:
            with ProcessPoolExecutor(1, context) as alone:
                found = alone.submit(measured, path, name, rounds).result()
            print(f"{name:28s} {line(found, name, rows * k)}", flush=True)


@dataclass(frozen=True)
class Measured:
    """What an analysis takes.

    Attributes:
        first: Seconds of the first call.
        clock: Seconds of further calls, or of the first if there are none.
        cpu: Seconds of all cores in these.
        peak: Peak of the process, MiB.
    """

    first: float
    clock: list[float]
    cpu: list[float]
    peak: float


def measured(path: Path, name: str, rounds: int) -> Measured | str:
    """Run an analysis once and then some rounds; why it cannot, if it refuses."""
    with Store(path, memory=MEMORY) as store:
        try:
            cold = timed(store, ANALYSES[name])
            times = [timed(store, ANALYSES[name]) for _ in range(rounds)] or [cold]
        except RinglensError as error:
            return f"not measured: {error}"
    return Measured(cold[0], [clock for clock, _ in times], [cpu for _, cpu in times], peak())


def peak() -> float:
    """Peak memory of this process, MiB; `getrusage` would count what its parent had, too."""
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1024


def line(found: Measured | str, name: str, routed: int) -> str:
    """What is printed of an analysis."""
    if isinstance(found, str):
        return found
    median = statistics.median(found.clock)
    low, _, high = statistics.quantiles(found.clock, n=4) if len(found.clock) > 1 else [median] * 3
    goal = next((seconds for most, seconds in GOALS if routed <= most), float("inf"))
    goal = SUMS_GOAL if "sums" in name else goal
    missed = [f"misses {goal:g} s"] if median > goal else []
    missed += [f"misses {MEMORY_GOAL:,} MiB"] if found.peak > MEMORY_GOAL else []
    return (
        f"{found.first:7.2f} {median:7.2f} {low:7.2f}–{high:<7.2f} "
        f"{statistics.median(found.cpu):7.2f} {routed / median:8.1e} {found.peak:8.0f}  "
        f"{', '.join(missed)}"
    )


def timed(store: Store, run: Callable[[Store], object]) -> tuple[float, float]:
    """Seconds of the clock, and of all cores."""
    start, cpu = time.perf_counter(), time.process_time()
    run(store)
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
