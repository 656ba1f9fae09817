"""What a checksum of every file costs a commit, and what a check of a store costs.

Commits of router logits with no checksum, CRC-32, BLAKE2b and SHA-256 are timed in turn, in CPU
seconds. Then stores of two sizes are checked, each in a process of its own: CPU seconds a GB, and
the most memory, which should not grow with the store.

python benchmarks/bench_check.py [--routed 5e6,6e7] [--rounds 7]

What the checks find is printed: router logits of synthetic stores are left out, as their rounding
changes some choices.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from side_by_side import machine
from synthetic_store import make

from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.storage import parquet

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from records import random_run, random_trace

RUN = random_run(layers=40, dense=1, experts=256, groups=8, groups_kept=4, k=8, heads=16)


def digest(name: str, **options: int) -> Callable[[Path], str]:
    """A checksum by hashlib."""

    def checksum(path: Path) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(name, **options)).hexdigest()

    return checksum


WAYS: dict[str, Callable[[Path], str]] = {
    "none": lambda path: "",
    "crc32": parquet.checksum,
    "blake2b": digest("blake2b"),
    "sha256": digest("sha256"),
}


def commits(rounds: int) -> None:
    """CPU seconds of a commit with each checksum."""
    trace = random_trace(RUN, 1500, heads=None)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            with (
                tempfile.TemporaryDirectory() as folder,
                StoreWriter(folder) as writer,
                patch.object(parquet, "checksum", way),
            ):
                run_id = writer.start_run(RUN)
                start = time.process_time()
                writer.commit(run_id, [trace])
                seconds[name].append(time.process_time() - start)
                size = writer.bytes_written
    plain = statistics.median(seconds["none"])
    print(f"a commit of {size / 1e6:.0f} MB, CPU seconds (median of {rounds}), and by none:")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"  {name:8} {middle:.3f}  {middle / plain:.2f}")


def checked(path: str) -> None:
    """Check a store; say what it took."""
    start = time.process_time()
    with Store(path) as store:
        report = check(store)
    cpu = time.process_time() - start
    # Not getrusage: Linux starts that of a new process at what its parent had.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1e3
    print(
        f"  {report.bytes / 1e6:,.0f} MB, {report.rows:,} rows: {cpu:.1f} s of CPU "
        f"({cpu / report.bytes * 1e9:.0f} s a GB), {peak:.0f} MB at most, "
        f"{len(report.findings)} findings"
    )


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--routed", default="5e6,6e7", help="chosen experts in each store")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    print(machine())
    commits(given.rounds)
    print("checks:")
    for routed in given.routed.split(","):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder) / "store", int(float(routed)))
            process = multiprocessing.get_context("spawn").Process(
                target=checked, args=(f"{folder}/store",)
            )
            process.start()
            process.join()


if __name__ == "__main__":
    main()
