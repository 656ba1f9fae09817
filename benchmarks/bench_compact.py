"""What compaction costs, and what it does to the queries of the dashboard.

CPU seconds of compaction for each 10 million rows of routing, and the time of queries on the same
store before and after, asked in turn: medians of CPU time and of the clock.

python benchmarks/bench_compact.py [TRACES] [TOKENS]
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from bench_writer import ring_1t
from side_by_side import machine

from ringlens.store import RoutingArrays, Store, StoreWriter, TraceRecord
from ringlens.store.maintain import compact
from ringlens.store.maintain.cube import read_cube

ROUNDS = 7

USAGE = "select expert, phase, n, share from expert_usage where layer = 40"
MAP = "select layer, expert_ids[1] from {routing} order by layer, pos"
LAYER = "select expert_ids[1], weights[1] from {routing} where layer = 40 order by pos"
TOKENS = "select * from {routing} where pos between 640 and 703 order by layer, pos"
MARGINS = "select avg(margin) filter (isfinite(margin)) from {routing} group by pos order by pos"
EXPERT = """
    select token_id, any_value(text), count(*) as n from tokens join (
        select trace_id, pos from routing where layer = 40 and list_contains(expert_ids, 7))
    using (trace_id, pos) group by token_id order by n desc limit 20"""


def main() -> None:
    """Print the cost and the queries."""
    traces = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 2048
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        make(before, traces, tokens)
        shutil.copytree(before, after)
        print(f"{machine()}; {traces} traces of {tokens} tokens of Ring-1T, in parts of 256")
        run_compaction(after)
        ask(before, after)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory {peak:,.0f} MiB")


def make(path: Path, traces: int, tokens: int) -> None:
    """Traces in parts, as a running capture commits them."""
    run, trace = ring_1t(tokens)
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for _ in range(traces):
            trace_id = None
            for start in range(0, tokens, 256):
                record = cut(trace, start, min(start + 256, tokens), trace_id)
                (trace_id,) = writer.commit(run_id, [record])
    with StoreWriter(path) as writer:  # not through finish_run, which would compact it
        compact.MANY = 10**9
        writer.finish_run(run_id)


def cut(trace: TraceRecord, start: int, stop: int, trace_id: int | None) -> TraceRecord:
    """Tokens and routing of some positions, as the next part of the trace."""
    whole, routing = trace.tokens, trace.routing
    assert isinstance(routing, RoutingArrays)
    tokens = type(whole)(*(getattr(whole, name)[start:stop] for name in whole.__annotations__))
    arrays = {
        name: value[:, start:stop]
        for name, value in vars(routing).items()
        if isinstance(value, np.ndarray)
    }
    last = stop == len(whole.token_id)
    values = vars(trace) | {
        "text": trace.text[: 5 * stop],
        "n_think": stop,
        "finish_reason": "stop" if last else "running",
        "tokens": tokens,
        "routing": RoutingArrays(layers=routing.layers, **arrays),
        "router_logits": None,
        "heads": None,
        "trace_id": trace_id,
        "start": start,
    }
    return TraceRecord(**values)


def run_compaction(path: Path) -> None:
    """Compact, and say what that cost."""
    with Store(path) as store, StoreWriter(path) as writer:
        groups = compact.plan(store)
        size = sum(file.bytes for group in groups for file in group.files)
        files = sum(len(group.files) for group in groups)
        rows = sum(file.rows for file in store.files("routing"))
        cpu, clock = time.process_time(), time.perf_counter()
        compact.compact(writer.rewriter(), groups, lambda done, total: None)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        tables = {group.table.name for group in groups}
        left = sum(len(store.files(table)) for table in tables)
        new = sum(file.bytes for table in tables for file in store.files(table))
    print(
        f"{files} files of {size / 1e6:,.0f} MB became {left} of {new / 1e6:,.0f} MB:"
        f" {cpu:.1f} s of CPU, {clock:.1f} s by the clock,"
        f" {cpu / rows * 1e7:.1f} CPU-seconds for 10 million rows of routing"
    )


def ask(before: Path, after: Path) -> None:
    """Time each query on both stores in turn."""
    with Store(before) as first, Store(after) as second:
        trace_id = len(first.traces()) // 2
        asked: dict[str, Callable[[Store], object]] = {
            "usage of a layer": lambda s: rows(s, USAGE),
            "cube of a trace": lambda s: read_cube(s, trace_id),
            "map of a trace": lambda s: of_trace(s, trace_id, MAP),
            "a layer of a trace": lambda s: of_trace(s, trace_id, LAYER),
            "64 tokens, all layers": lambda s: of_trace(s, trace_id, TOKENS),
            "margins of a trace": lambda s: of_trace(s, trace_id, MARGINS),
            "tokens of an expert": lambda s: rows(s, EXPERT),
        }
        print(f"{'milliseconds':24s} {'before: CPU':>12s} {'clock':>8s} {'after: CPU':>12s} clock")
        for name, query in asked.items():
            times: list[list[tuple[float, float]]] = [[], []]
            for _ in range(ROUNDS + 1):
                for store, found in zip((first, second), times, strict=True):
                    cpu, clock = time.process_time(), time.perf_counter()
                    query(store)
                    found.append((time.process_time() - cpu, time.perf_counter() - clock))
            shown = [1000 * median(t[i] for t in each[1:]) for each in times for i in (0, 1)]
            print(f"{name:24s} {shown[0]:12.1f} {shown[1]:8.1f} {shown[2]:12.1f} {shown[3]:.1f}")


def of_trace(store: Store, trace_id: int, query: str) -> pa.Table:
    """A query about one trace; files that cannot hold it are not opened."""
    files = store.files("routing", trace_id, trace_id)
    source = f"(select * from {store.scan('routing', files)} where trace_id = {trace_id})"
    return rows(store, query.format(routing=source))


def rows(store: Store, query: str) -> pa.Table:
    """The result."""
    return store.sql(query).to_arrow_table()


if __name__ == "__main__":
    main()
