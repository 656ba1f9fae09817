"""Full router logits: how fast they are stored on several cores, and how fast they are read back.

Four ways to store them are timed in turn, from `StoreWriter.commit` (with its fsyncs) to arrays:

- ``FLOAT[]`` as the store writes it (`ringlens.store.encode.half_file`), for any Parquet reader;
- ``FLOAT[]`` as pyarrow writes it, with bytes split and zstd;
- Parquet's ``FLOAT16`` as pyarrow writes it, plain and uncompressed (DuckDB reads no FLOAT16 with
  bytes split), with a nullable FLOAT[] for rows that fp16 cannot hold;
- the two byte planes of fp16 as FIXED_LEN_BYTE_ARRAY columns (the low one uncompressed), with a
  nullable FLOAT[] for rows that fp16 cannot hold. SQL sees FLOAT[] through a function that only
  ringlens' own connections would have.

Traces have the sizes of Ring-1T (76 sparse layers, 256 experts); routing is stored with them, as
always. For figures of four cores:

taskset -c 0-3 python benchmarks/bench_logits.py --workers 1,2,4
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_writer import ring_1t
from numpy.typing import NDArray
from side_by_side import machine

from ringlens.store import RunRecord, Store, StoreWriter, TraceRecord
from ringlens.store.encode import half_file
from ringlens.store.encode.columns import fixed_lists, matrix
from ringlens.store.encode.encoders import Write
from ringlens.store.parallel import job
from ringlens.store.parallel.encoding import InThreads
from ringlens.store.parallel.job import Written
from ringlens.store.schema.recorded_tables import ROUTER_LOGITS
from ringlens.store.schema.table import Column, Table
from ringlens.store.storage import parquet

EXPERTS = 256
PLANES = Table(
    "router_logits",
    "The same rows as byte planes.",
    ROUTER_LOGITS.key,
    (
        *ROUTER_LOGITS.columns[:3],
        Column("low", pa.binary(EXPERTS), "low bytes of fp16"),
        Column("high", pa.binary(EXPERTS), "high bytes of fp16"),
        replace(ROUTER_LOGITS.columns[3], name="exact", nullable=True),
    ),
)
HALVES = Table(
    "router_logits",
    "The same rows as FLOAT16.",
    ROUTER_LOGITS.key,
    (
        *ROUTER_LOGITS.columns[:3],
        Column("half", pa.list_(pa.float16()), "as fp16", nullable=True),
        replace(ROUTER_LOGITS.columns[3], name="exact", nullable=True),
    ),
)
LAYER = 40
SCAN = "select avg(list_max(logits)) from {}"


def main() -> None:
    """Print tokens a second, CPU seconds and bytes a token, and what reading costs."""
    parser = argparse.ArgumentParser(description="Writing and reading full router logits.")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a commit")
    parser.add_argument("--workers", default="1,2", help="numbers of threads that encode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", help="folder on the disk to be measured; else a temporary one")
    args = parser.parse_args()
    pa.set_cpu_count(1)
    step_costs()
    run, trace = ring_1t(args.tokens)
    trace = replace(trace, heads=None)
    variants = [(way, int(count)) for count in args.workers.split(",") for way in READERS]
    cores = len(os.sched_getaffinity(0))
    print(f"{machine()}, {cores} of them usable; pyarrow {pa.__version__}")
    print(f"routing and logits of {args.tokens} tokens a commit, medians of {args.rounds} rounds")
    with tempfile.TemporaryDirectory(dir=args.store) as folder:
        measure(variants, run, trace, Path(folder), args.rounds)


def measure(
    variants: list[tuple[str, int]], run: RunRecord, trace: TraceRecord, root: Path, rounds: int
) -> None:
    """All variants in turn: one commit each, for ``rounds`` rounds; then each is read back."""
    tokens = len(trace.tokens.token_id)
    clock: dict[tuple[str, int], list[float]] = defaultdict(list)
    core: dict[tuple[str, int], list[float]] = defaultdict(list)
    with ExitStack() as held:
        writers = {
            (way, n): held.enter_context(StoreWriter(root / f"{way}-{n}", encoding=InThreads(n)))
            for way, n in variants
        }
        runs = {variant: writer.start_run(run) for variant, writer in writers.items()}
        for turn in range(rounds + 1):
            for variant, writer in writers.items():
                with stored_as(variant[0]):
                    cpu, now = time.process_time(), time.perf_counter()
                    writer.commit(runs[variant], [trace])
                if turn:  # the first round pays for imports
                    clock[variant].append((time.perf_counter() - now) / tokens)
                    core[variant].append((time.process_time() - cpu) / tokens)
    raw = root / "raw.npy"
    npy = median_of(lambda: save(raw, trace.router_logits), 3) / tokens
    size = raw.stat().st_size / tokens / 1000
    print(f"raw fp16 .npy with fsync: {1 / npy:,.0f} tokens/s, {size:.1f} kB a token")
    print(
        f"{'stored as, workers':22s} {'tokens/s (range)':>26s} {'CPU s a 1000 tokens':>20s}"
        f" {'kB a token':>11s} {'files':>6s} {'layer ms':>9s} {'scan s':>7s}"
    )
    for variant in variants:
        rate = sorted(1 / seconds for seconds in clock[variant])
        with Store(root / "-".join(map(str, variant))) as store:
            files = store.files("router_logits")
            size = sum(file.bytes for file in files) / (rounds + 1) / tokens / 1000
            layer, scan = READERS[variant[0]](store, trace)
        name = f"{variant[0]}, {variant[1]}"
        print(
            f"{name:22s} {statistics.median(rate):10,.0f} ({rate[0]:6,.0f}-{rate[-1]:6,.0f})"
            f" {1000 * statistics.median(core[variant]):20.3f} {size:11.2f}"
            f" {len(files) // (rounds + 1):6d} {1000 * layer:9.1f} {scan:7.2f}"
        )


def step_costs() -> None:
    """What the steps cost on one core: why a machine is fast or slow."""
    rng = np.random.default_rng(0)
    logits_TE = rng.normal(-1, 1.5, (4096, EXPERTS)).astype(np.float16).astype(np.float32)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(np.zeros(4096, np.int64)),
            pa.array(np.zeros(4096, np.uint16)),
            pa.array(np.arange(4096, dtype=np.int32)),
            fixed_lists(logits_TE, ROUTER_LOGITS.arrow.field("logits").type),
        ],
        schema=ROUTER_LOGITS.arrow,
    )
    split = np.ascontiguousarray(logits_TE.view(np.uint8).reshape(-1, 4).T).tobytes()
    codec = pa.Codec("zstd", compression_level=1)
    plain = parquet._settings(ROUTER_LOGITS) | {"compression": "none", "compression_level": None}

    def written(settings: dict[str, object]) -> None:
        with pq.ParquetWriter(pa.BufferOutputStream(), ROUTER_LOGITS.arrow, **settings) as writer:
            writer.write_batch(batch, row_group_size=len(batch))

    def half() -> None:
        file = half_file.HalfFile(io.BytesIO(), ROUTER_LOGITS.arrow)
        file.write(batch)
        file.close()

    steps = {
        "half file": half,
        "pyarrow": lambda: written(parquet._settings(ROUTER_LOGITS)),
        "pyarrow without zstd": lambda: written(plain),
        "zstd of split bytes": lambda: codec.compress(split),
        "cast to fp16": lambda: logits_TE.astype(np.float16),
        "copy": lambda: logits_TE.copy(),
        "crc32 of 2 bytes": lambda: zlib.crc32(split[: 2 * logits_TE.size]),
    }
    for work in steps.values():
        work()
    costs = {
        name: median_of(work, 5, time.thread_time) / logits_TE.size * 1e9
        for name, work in steps.items()
    }
    print("ns a logit: " + ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items()))


def save(path: Path, logits: NDArray) -> None:
    """The limit: fp16 to the disk as it is."""
    np.save(path, logits.astype(np.float16))
    parquet.flush(path)


def median_of(
    work: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median seconds."""
    seconds = []
    for _ in range(rounds):
        start = clock()
        work()
        seconds.append(clock() - start)
    return statistics.median(seconds)


# --- the ways ---------------------------------------------------------------------------------


def stored_as(way: str) -> ExitStack:
    """A context in which a StoreWriter stores logits in this way."""
    stack = ExitStack()
    if way == "pyarrow":
        stack.enter_context(patch.object(half_file, "MIN_FLOATS", sys.maxsize))
    if way in OTHER:
        other, made, settings = OTHER[way]
        usual = parquet._settings
        stack.enter_context(patch.object(job, "written", written_as(other, made)))
        stack.enter_context(
            patch.object(parquet, "_settings", lambda t: settings() if t is other else usual(t))
        )
    return stack


def written_as(
    other: Table, made: Callable[[pa.RecordBatch], pa.RecordBatch]
) -> Callable[..., Written]:
    """What writes another table in place of logits."""
    usual = job.written

    def written(
        path: Path, table: Table, groups: Iterable[pa.RecordBatch], write: Write = parquet.write
    ) -> Written:
        if table.name == other.name:
            table, groups, write = other, map(made, groups), parquet.write
        return usual(path, table, groups, write)

    return written


def half_settings() -> dict[str, object]:
    """Settings of the files of FLOAT16."""
    floats = {"half.list.element": "none", "exact.list.element": "zstd"}
    return {
        "compression": dict.fromkeys(("trace_id", "layer", "pos"), "zstd") | floats,
        "use_dictionary": ["trace_id", "layer"],
        "column_encoding": {"pos": "DELTA_BINARY_PACKED", "half.list.element": "PLAIN"},
        "write_statistics": list(HALVES.key),
        "write_page_checksum": True,
    }


def halves(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A row group of logits as FLOAT16, exact also where fp16 is not."""
    logits_RE = batch["logits"].values.to_numpy().reshape(len(batch), EXPERTS)
    half_RE = logits_RE.astype(np.float16)
    inexact_R = (half_RE.astype(np.float32) != logits_RE).any(axis=1)
    columns = [
        some_lists(half_RE, ~inexact_R, HALVES.arrow.field("half").type),
        some_lists(logits_RE, inexact_R, HALVES.arrow.field("exact").type),
    ]
    return pa.RecordBatch.from_arrays([*batch.columns[:3], *columns], schema=HALVES.arrow)


def some_lists(values_RE: NDArray, there_R: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Rows as lists, null where they are not there."""
    ends = np.concatenate([[0], np.cumsum(there_R)]).astype(np.int32) * EXPERTS
    values = values_RE.reshape(-1) if there_R.all() else values_RE[there_R].reshape(-1)
    mask = None if there_R.all() else pa.array(~there_R)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values), type=kind, mask=mask)


def plane_settings() -> dict[str, object]:
    """Settings of the files of planes."""
    return {
        "compression": dict.fromkeys(("trace_id", "layer", "pos", "high"), "zstd")
        | {"low": "none", "exact.list.element": "zstd"},
        "compression_level": {"high": 1},
        "use_dictionary": ["trace_id", "layer"],
        "column_encoding": {"pos": "DELTA_BINARY_PACKED", "low": "PLAIN", "high": "PLAIN"},
        "write_statistics": list(PLANES.key),
        "write_page_checksum": True,
    }


def planes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A row group of logits as planes, exact also where fp16 is not."""
    logits_RE = batch["logits"].values.to_numpy().reshape(len(batch), EXPERTS)
    half_RE = logits_RE.astype(np.float16)
    bytes_REb = half_RE.view(np.uint8).reshape(len(batch), EXPERTS, 2)
    low, high = (fixed(np.ascontiguousarray(bytes_REb[:, :, i])) for i in (0, 1))
    inexact_R = (half_RE.astype(np.float32) != logits_RE).any(axis=1)
    exact = some_lists(logits_RE, inexact_R, PLANES.arrow.field("exact").type)
    return pa.RecordBatch.from_arrays([*batch.columns[:3], low, high, exact], schema=PLANES.arrow)


def fixed(bytes_RE: NDArray[np.uint8]) -> pa.Array:
    """Rows of bytes as a column of fixed-size binaries."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(EXPERTS), len(bytes_RE), [None, pa.py_buffer(bytes_RE)]
    )


def from_planes(
    low: pa.ChunkedArray, high: pa.ChunkedArray, exact: pa.ChunkedArray
) -> NDArray[np.float32]:
    """Logits [R, E] of planes."""
    both = [np.frombuffer(b"".join(plane.to_pylist()), np.uint8) for plane in (low, high)]
    logits_RE = np.stack(both, axis=-1).view(np.float16).reshape(-1, EXPERTS).astype(np.float32)
    known_R = exact.is_valid().to_numpy()
    if known_R.any():
        logits_RE[known_R] = matrix(exact.drop_null())
    return logits_RE


def read_floats(store: Store, trace: TraceRecord) -> tuple[float, float]:
    """Seconds for one layer of one trace, and for a query over all rows."""
    found = store.trace(1)
    same(found.router_logits(LAYER), trace)
    layer = median_of(lambda: found.router_logits(LAYER), 5)
    return layer, median_of(lambda: store.sql(SCAN.format("router_logits")).fetchall(), 1)


def read_planes(store: Store, trace: TraceRecord) -> tuple[float, float]:
    """The same of planes, through an Arrow function in SQL."""

    def files(of: Iterable) -> str:
        return ", ".join(f"'{store.path / file.path}'" for file in of)

    connection = duckdb.connect()

    def logits(low: pa.ChunkedArray, high: pa.ChunkedArray, exact: pa.ChunkedArray) -> pa.Array:
        values_RE = from_planes(low, high, exact)
        offsets = np.arange(0, values_RE.size + 1, EXPERTS, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values_RE.reshape(-1)))

    blob = duckdb.sqltypes.BLOB
    floats = duckdb.list_type(duckdb.sqltypes.FLOAT)
    connection.create_function(
        "logits_of", logits, [blob, blob, floats], floats, type="arrow", null_handling="special"
    )
    view = "(select logits_of(low, high, exact) as logits from read_parquet([{}]))"

    def one_layer() -> NDArray:
        source = f"read_parquet([{files(store.files('router_logits', 1, 1))}])"
        where = f"trace_id = 1 and layer = {LAYER} order by pos"
        query = f"select low, high, exact from {source} where {where}"
        table = connection.sql(query).to_arrow_table()
        return from_planes(table["low"], table["high"], table["exact"])

    same(one_layer(), trace)
    layer = median_of(one_layer, 5)
    all_rows = view.format(files(store.files("router_logits")))
    return layer, median_of(lambda: connection.sql(SCAN.format(all_rows)).fetchall(), 1)


def read_halves(store: Store, trace: TraceRecord) -> tuple[float, float]:
    """The same of FLOAT16, which DuckDB reads as floats."""
    connection = duckdb.connect()

    def view(of: Iterable) -> str:
        files = ", ".join(f"'{store.path / file.path}'" for file in of)
        floats = "coalesce(exact, half::float[]) as logits"
        return f"(select trace_id, layer, pos, {floats} from read_parquet([{files}]))"

    def one_layer() -> NDArray:
        source = view(store.files("router_logits", 1, 1))
        query = f"select logits from {source} where trace_id = 1 and layer = {LAYER} order by pos"
        return matrix(connection.sql(query).to_arrow_table()["logits"])

    same(one_layer(), trace)
    layer = median_of(one_layer, 5)
    query = SCAN.format(view(store.files("router_logits")))
    return layer, median_of(lambda: connection.sql(query).fetchall(), 1)


def same(found_TE: NDArray, trace: TraceRecord) -> None:
    """Stop unless the logits of one layer came back as they were."""
    assert trace.routing is not None
    assert trace.router_logits is not None
    np.testing.assert_array_equal(found_TE, trace.router_logits[trace.routing.layers.index(LAYER)])


OTHER = {
    "planes": (PLANES, planes, plane_settings),
    "FLOAT16": (HALVES, halves, half_settings),
}
READERS = {
    "FLOAT[]": read_floats,
    "pyarrow": read_floats,
    "planes": read_planes,
    "FLOAT16": read_halves,
}


if __name__ == "__main__":
    main()
