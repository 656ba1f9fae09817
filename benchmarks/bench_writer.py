"""How many tokens a second are stored: traces of Ring-1T's size, encoded and committed.

Tokens a second of CPU time, which is what one core does, and of the clock: tables are encoded side
by side. Both are medians, with their range. In turn with each commit the same arrays are written as
raw `.npy` files, floats in half precision, which is the limit: no key, no choice of columns, and
every reader must know the shapes.

python benchmarks/bench_writer.py [TOKENS]
python benchmarks/bench_writer.py [TOKENS] --workers 0 1 2    # everything, in so many processes

With --workers (0: in threads), commits go one after the other as fast as they can, while another
thread counts, as the model's thread would run: how much slower it counts is how long it waits for
Python's lock and for a core. CPU time is that of this process, and of the others.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from side_by_side import machine
from synthetic_store import EXPERTS, HEADS, LAYERS, SPARSE, K, half, run_record

from ringlens.store import (
    HeadArrays,
    RoutingArrays,
    RunRecord,
    Store,
    StoreWriter,
    TokenArrays,
    TraceRecord,
)
from ringlens.store.parallel.encoding import InThreads, default_threads
from ringlens.store.parallel.processes import InProcesses

ROUNDS = 5


def main() -> None:
    """Print tokens a second of CPU time, and bytes a token, for what may be recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", type=int, nargs="?", default=1024)
    parser.add_argument("--workers", type=int, nargs="+", help="numbers of processes; 0: threads")
    options = parser.parse_args()
    tokens = options.tokens
    pa.set_cpu_count(1)
    run, trace = ring_1t(tokens)
    if options.workers:
        print(f"{machine()}, {len(os.sched_getaffinity(0))} usable; blocks of {tokens} tokens")
        in_workers(options.workers, run, trace)
        return
    variants = {
        "tokens": replace(trace, routing=None, router_logits=None, heads=None),
        "routing": replace(trace, router_logits=None, heads=None),
        "routing, logits": replace(trace, heads=None),
        "routing, heads": replace(trace, router_logits=None),
        "routing, head blocks": replace(
            trace, router_logits=None, heads=None, head_blocks=trace.heads
        ),
        "routing, logits, head blocks": replace(trace, heads=None, head_blocks=trace.heads),
        "everything": trace,
    }
    print(f"{machine()}, pyarrow {pa.__version__}; blocks of {tokens} tokens")
    for name, record in variants.items():
        found = measure(run, record)
        core = [tokens / cpu for cpu, _ in found.commit]
        clock = [tokens / seconds for _, seconds in found.commit]
        raw = [tokens / cpu for cpu, _ in found.npy]
        print(
            f"{name:28s} {spread(core)} tokens/s of one core, {spread(clock)} by the clock,"
            f" {sum(found.tables.values()) / tokens / 1000:6.2f} kB a token;"
            f" .npy {spread(raw)} of one core, {found.npy_bytes / tokens / 1000:6.2f} kB"
        )
    print("bytes a token of each table, everything recorded:")
    for table, size in sorted(found.tables.items()):
        print(f"  {table:16s} {size / tokens:10,.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MiB, of which the trace {trace_bytes(trace) / 2**20:,.0f} MiB")


def in_workers(numbers: list[int], run: RunRecord, trace: TraceRecord) -> None:
    """Print what encoding everything costs in this process and in others, in turn."""
    tokens = len(trace.tokens.token_id)
    found: dict[int, list[Beside]] = {number: [] for number in numbers}
    for _ in range(ROUNDS):
        alone = Counting.alone()
        for number in numbers:
            found[number].append(beside(number, run, trace, alone))
    for number, rounds in found.items():
        where = f"{number} processes" if number else f"{default_threads()} threads"
        done = tokens * COMMITS / 1000
        print(
            f"{where:12s} {spread([1000 * done / r.seconds for r in rounds])} tokens/s by the"
            f" clock; CPU ms a 1000 tokens: here {spread([1000 * r.here / done for r in rounds])},"
            f" in the others {spread([1000 * r.others / done for r in rounds])};"
            f" another thread runs at {spread([100 * r.pace for r in rounds])} %"
        )


COMMITS = 4


class Beside(NamedTuple):
    """COMMITS in a row: seconds, CPU here and in other processes, pace of a counting thread."""

    seconds: float
    here: float
    others: float
    pace: float


class Counting(threading.Thread):
    """Counts as fast as it can, as a model's thread would run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.count, self.stops, self.cpu = 0, False, 0.0

    def run(self) -> None:
        """Count until told to stop."""
        while not self.stops:
            for _ in range(1000):
                pass
            self.count += 1
        self.cpu = time.thread_time()

    @classmethod
    def alone(cls) -> float:
        """Counts a second with nothing beside it."""
        thread = cls()
        start = time.perf_counter()
        thread.start()
        time.sleep(1)
        thread.stops = True
        thread.join()
        return thread.count / (time.perf_counter() - start)


def beside(number: int, run: RunRecord, trace: TraceRecord, alone: float) -> Beside:
    """Commit a trace several times beside a counting thread."""
    processes = InProcesses(number)
    encoding = processes if number else InThreads(default_threads())
    pids = [worker.process.pid for worker in processes._all]
    with (
        tempfile.TemporaryDirectory() as name,
        closing(processes),
        StoreWriter(Path(name) / "s", encoding=encoding) as writer,
    ):
        run_id = writer.start_run(run)
        writer.commit(run_id, [trace])  # starts all that is started
        thread = Counting()
        start, cpu, others = time.perf_counter(), time.process_time(), cpu_of(pids)
        thread.start()
        for _ in range(COMMITS):
            writer.commit(run_id, [trace])
        seconds, count = time.perf_counter() - start, thread.count
        thread.stops = True
        thread.join()
        here = time.process_time() - cpu - thread.cpu
        return Beside(seconds, here, cpu_of(pids) - others, count / seconds / alone)


def cpu_of(pids: list[int]) -> float:
    """CPU seconds that processes have taken."""
    ticks = 0
    for pid in pids:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Found(NamedTuple):
    """What was measured: seconds of CPU and of the clock in each round, and bytes."""

    commit: list[tuple[float, float]]
    npy: list[tuple[float, float]]
    tables: dict[str, int]
    npy_bytes: int


def measure(run: RunRecord, record: TraceRecord) -> Found:
    """Commit a trace and write its arrays raw, in turn."""
    commit, npy, arrays = [], [], raw_arrays(record)
    with tempfile.TemporaryDirectory() as name, StoreWriter(Path(name) / "s") as writer:
        run_id = writer.start_run(run)
        for _ in range(ROUNDS + 1):
            commit.append(timed(lambda: writer.commit(run_id, [record])))
            npy.append(timed(lambda: write_npy(Path(name), arrays)))
        with Store(Path(name) / "s") as store:
            last = max(file.first_trace for file in store.files("tokens"))
            tables: dict[str, int] = defaultdict(int)
            for file in (file for files in store.snapshot().values() for file in files):
                if file.last_trace == last:
                    tables[file.table] += file.bytes
        npy_bytes = sum(path.stat().st_size for path in Path(name).glob("*.npy"))
    return Found(commit[1:], npy[1:], tables, npy_bytes)  # the first round pays for imports


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU and of the clock."""
    cpu, now = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - now


def raw_arrays(record: TraceRecord) -> dict[str, np.ndarray]:
    """The large arrays of a record."""
    groups = {"routing": record.routing, "heads": record.heads, "blocks": record.head_blocks}
    arrays = {"logits": record.router_logits} if record.router_logits is not None else {}
    for name, group in groups.items():
        for field, array in vars(group).items() if group is not None else ():
            if isinstance(array, np.ndarray):
                arrays[f"{name}-{field}"] = array
    return arrays


def write_npy(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as raw files, and wait for the disk."""
    for name, array in arrays.items():
        floats = np.issubdtype(array.dtype, np.floating)
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array.astype(np.float16) if floats else array)
            file.flush()
            os.fsync(file.fileno())


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):7,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def ring_1t(tokens: int) -> tuple[RunRecord, TraceRecord]:
    """A run and a trace of Ring-1T's sizes; values from distributions like the model's."""
    rng = np.random.default_rng(0)
    shape = (len(SPARSE), tokens)
    logits = half(rng.normal(-1, 1.5, (*shape, EXPERTS)).astype(np.float32))
    ids = np.argsort(-logits, axis=2)[..., : K + 1]
    score = 1 / (1 + np.exp(-np.take_along_axis(logits, ids, axis=2)))
    weights = score[..., :K] / score[..., :K].sum(-1, keepdims=True) * 2.5
    routing = RoutingArrays(
        layers=SPARSE,
        expert_ids=ids[..., :K].astype(np.uint8),
        weights=half(weights),
        affinities=score[..., :K],
        margin=score[..., K - 1] - score[..., K],
        group_margin=rng.gamma(1, 0.1, shape).astype(np.float32),
        bias_flips=rng.random((*shape, K)) < 0.1,
        unlimited_ids=ids[..., :K].astype(np.uint8),
        group_flips=rng.random((*shape, K)) < 0.1,
        entropy=rng.normal(5, 0.1, shape).astype(np.float32),
    )
    bias_SE = rng.normal(0, 0.05, (len(SPARSE), EXPERTS)).astype(np.float32)
    run = run_record(np.random.default_rng(0), heads=True, logits=True, bias_SE=bias_SE)
    trace = TraceRecord(
        prompt="",
        text="word " * tokens,
        n_prompt=0,
        n_think=tokens,
        n_answer=0,
        finish_reason="stop",
        seed=0,
        tokens=words(rng, tokens),
        routing=routing,
        router_logits=logits,
        heads=head_statistics(rng, tokens),
    )
    return run, trace


def words(rng: np.random.Generator, tokens: int) -> TokenArrays:
    """Tokens of five characters."""
    start = np.arange(0, 5 * tokens, 5, dtype=np.int32)
    token_id = rng.zipf(1.3, tokens).clip(max=150_000).astype(np.int32)
    entropy, logprob = (rng.gamma(1, 0.5, tokens).astype(np.float32) for _ in range(2))
    return TokenArrays(
        token_id, ["word "] * tokens, start, start + 5, ["think"] * tokens, -logprob, entropy
    )


def head_statistics(rng: np.random.Generator, tokens: int) -> HeadArrays:
    """Most weight on the first token, as large models have it."""
    shape = (LAYERS, tokens, HEADS)
    first = rng.beta(2, 1, shape)
    values = (rng.gamma(2, 1, shape), first, (1 - first) * rng.beta(1, 20, shape))
    norm = rng.gamma(4, 1, shape)
    return HeadArrays(tuple(range(LAYERS)), *(half(v) for v in values), half(norm))


def trace_bytes(trace: TraceRecord) -> int:
    """Bytes of the large arrays."""
    arrays = [trace.router_logits, *vars(trace.routing).values(), *vars(trace.heads).values()]
    return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


if __name__ == "__main__":
    main()
