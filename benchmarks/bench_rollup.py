"""What rollups cost where routing is written, and what they save where it is read.

Writing: the same commits with and without the two tables, in turn; medians of the ratios within a
round. Reading: usage of a run counted from its routing (an Arrow stream and bincount) and summed up
from the rollup; the counts of a stretch of a trace from routing and from the cube of blocks.

python benchmarks/bench_rollup.py [TRACES] [TOKENS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from bench_writer import ring_1t
from side_by_side import machine, medians

from ringlens.store import Store, StoreWriter, TraceRecord
from ringlens.store.encode.columns import matrix
from ringlens.store.maintain import rollup
from ringlens.store.maintain.cube import read_cube
from ringlens.store.parallel.job import UsageJob
from ringlens.store.schema.records import RunRecord

ROUNDS = 7


def main() -> None:
    """Print the cost of writing and the time of reading."""
    traces = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 2048
    pa.set_cpu_count(1)
    run, trace = ring_1t(tokens)
    routed = replace(trace, router_logits=None, heads=None)
    print(f"{machine()}; {tokens} tokens of Ring-1T a commit")
    write(run, {"routing": routed, "everything": trace}, tokens)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with StoreWriter(path) as writer:
            run_id = writer.start_run(run)
            for _ in range(traces):
                writer.commit(run_id, [routed])
            writer.finish_run(run_id)
        with Store(path) as store:
            read(store, run_id, tokens)
        rebuild(path, run_id)


def write(run: RunRecord, records: dict[str, TraceRecord], tokens: int) -> None:
    """Compare commits with and without rollups."""
    for name, record in records.items():
        with tempfile.TemporaryDirectory() as folder, StoreWriter(Path(folder) / "s") as writer:
            run_id = writer.start_run(run)
            commit = partial(writer.commit, run_id, [record])
            ratios, seconds = [], []
            for _ in range(ROUNDS + 1):
                with without_rollups():
                    bare = cpu(commit)
                full = cpu(commit)
                ratios.append(full / bare)
                seconds.append(full - bare)
            with Store(Path(folder) / "s") as store:
                size = {
                    table: sum(file.bytes for file in store.files(table)) / (ROUNDS + 1)
                    for table in ("usage_traces", "usage_blocks")
                }
        print(
            f"{name:11s} {median(ratios[1:]):.2f} times the CPU time with rollups"
            f" ({min(ratios[1:]):.2f}-{max(ratios[1:]):.2f}),"
            f" {1e6 * median(seconds[1:]) / tokens:.0f} us a token,"
            f" {sum(size.values()) / tokens:.0f} bytes a token"
        )


@contextmanager
def without_rollups():
    """Commits write no rollups, which nothing but this benchmark can ask for."""
    run = UsageJob.run
    UsageJob.run = lambda _: []
    try:
        yield
    finally:
        UsageJob.run = run


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def read(store: Store, run_id: str, tokens: int) -> None:
    """Compare reading from routing with reading from rollups."""
    experts = 256

    def counted() -> np.ndarray:
        n = np.zeros(80 * experts, np.int64)
        query = "select layer, expert_ids from routing"
        for batch in store.sql(query).to_arrow_reader(200_000):
            rows = pa.Table.from_batches([batch])
            layer_R = rows["layer"].to_numpy().astype(np.int64)
            cell_Rk = layer_R[:, None] * experts + matrix(rows["expert_ids"])
            n += np.bincount(cell_Rk.ravel(), minlength=n.size)
        return n

    def summed() -> np.ndarray:
        n = np.zeros((80, experts), np.int64)
        rows = store.sql("select layer, n from usage_traces").to_arrow_table()
        np.add.at(n, rows["layer"].to_numpy(), matrix(rows["n"]))
        return n.ravel()

    assert (counted() == summed()).all()
    start, stop = tokens // 4 + 9, tokens // 2 + 77
    cube = read_cube(store, 1)
    where = f"select layer, expert_ids from routing where trace_id = 1 and pos between {start} and"
    found = medians(
        {
            "usage of the run, routing": counted,
            "usage of the run, rollup": summed,
            "usage of the run, expert_usage": lambda: store.sql("from expert_usage").fetchnumpy(),
            "a stretch, routing": lambda: store.sql(f"{where} {stop - 1}").to_arrow_table(),
            "a stretch, cube and edges": lambda: cube.counts_SE(store, start, stop),
            "a stretch of blocks, cube": lambda: cube.blocks_SE(1, cube.blocks),
            "a cube, read": lambda: read_cube(store, 1),
        },
        ROUNDS,
    )
    rows = sum(file.rows for file in store.files("routing"))
    print(f"reading, {rows:,} rows of routing; milliseconds by the clock:")
    for name, seconds in found.items():
        print(f"  {name:32s} {1000 * seconds:8.1f}")


def rebuild(path: Path, run_id: str) -> None:
    """Time the recount of a run."""
    with StoreWriter(path) as writer, Store(path) as store:
        rows = sum(file.rows for file in store.files("routing"))
        seconds = cpu(lambda: rollup.rebuild(writer.rewriter(), run_id, lambda done, total: None))
    print(f"counted anew: {seconds / rows * 1e7:.1f} CPU-seconds for 10 million rows of routing")


if __name__ == "__main__":
    main()
