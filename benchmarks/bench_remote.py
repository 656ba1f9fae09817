"""Stores at addresses: how long opening takes, what one trace costs, what a commit costs.

A few real traces and a manifest of many commits: on a local disk (SQLite), on ``file://`` and on
an S3 server on loopback, also with a delay added to every answer, as a distant server has. The
files of the many commits are links to real ones, or on S3 only named in the manifest; what is timed
never reads them.

python benchmarks/bench_remote.py [--commits 1000] [--delay 0.02]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import machine, medians

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from records import random_run, random_trace
from s3_server import BUCKET, S3Server, reached, serve

from ringlens.store import Store, StoreWriter
from ringlens.store.manifest import object_log
from ringlens.store.manifest.manifest import File

RUN = random_run()
TABLES = ("traces", "tokens", "routing", "router_logits", "heads", "usage_traces", "usage_blocks")
REAL = 3


def fill(address: str, commits: int) -> int:
    """Commit a few real traces amid many that are made up; return a real one."""
    trace = random_trace(RUN, 200)
    with StoreWriter(address) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [trace])
        real = {file.table: file for file in writer._manifest.snapshot()[2]}
        for number in range(commits):
            if number % (commits // REAL) == commits // REAL - 1:
                (trace_id,) = writer.commit(run_id, [trace])
                continue
            manifest = writer._manifest
            commit = manifest.reserve(run_id, writer._lock.name, traces=1)
            first = commit.first_trace
            name = f"run={run_id}/part-{commit.commit_id:08d}.parquet"
            sizes = (first, first, 200, 10_000, "crc32:00000000")
            files = [File(f"{table}/{name}", table, run_id, *sizes) for table in TABLES]
            if writer.folder.is_local:
                for file in files:
                    os.link(writer.path / real[file.table].path, writer.path / file.path)
            manifest.complete(commit, files)
    return trace_id


def open_store(address: str) -> None:
    Store(address).close()


def read_trace(address: str, trace_id: int) -> None:
    """Open a store and take one layer's logits of one trace."""
    with Store(address) as store:
        store.trace(trace_id).router_logits(1)


def requests(server: S3Server, work: object) -> int:
    before = len(server.requests)
    work()
    return len(server.requests) - before


def without_checkpoints(address: str) -> None:
    """As `open_store`, reading every entry of the log."""
    latest, object_log.LATEST = object_log.LATEST, "manifest/none"
    try:
        open_store(address)
    finally:
        object_log.LATEST = latest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--delay", type=float, default=0.02, help="seconds added to an answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve() as server, reached(server):
        places = {
            "local": f"{folder}/local",
            "file://": f"file://{folder}/shared",
            "s3": f"s3://{BUCKET}/many",
        }
        traces = {name: fill(address, options.commits) for name, address in places.items()}
        few = f"s3://{BUCKET}/few"
        fill(few, REAL)

        def slow(work: object) -> object:
            def run() -> None:
                server.delay = options.delay
                try:
                    work()
                finally:
                    server.delay = 0.0

            return run

        s3, trace = places["s3"], traces["s3"]
        variants = {f"open, {name}": lambda a=a: open_store(a) for name, a in places.items()}
        variants |= {"open, s3, 3 commits": lambda: open_store(few)}
        variants |= {
            f"open and one trace, {name}": lambda n=name: read_trace(places[n], traces[n])
            for name in places
        }
        variants |= {
            "open and one trace, s3, 3 commits": lambda: read_trace(few, 2),
        }
        delayed = {
            "open, s3, delayed": slow(lambda: open_store(s3)),
            "open and one trace, s3, delayed": slow(lambda: read_trace(s3, trace)),
        }
        print(f"{machine()}; {options.commits} commits, {1e3 * options.delay:.0f} ms delay")
        for name, seconds in medians(variants | delayed).items():
            print(f"{name:36s} {1e3 * seconds:8.1f} ms")
        entries = {"open, s3, no checkpoint": lambda: without_checkpoints(s3)}
        for name, seconds in medians(entries, rounds=1).items():
            print(f"{name:36s} {1e3 * seconds:8.1f} ms")
        asked = {
            "open, s3": lambda: open_store(s3),
            "open, s3, no checkpoint": lambda: without_checkpoints(s3),
            "open and one trace, s3": lambda: read_trace(s3, trace),
        }
        for name, work in asked.items():
            print(f"{name:36s} {requests(server, work):8d} requests")
        commit(places, server)


def commit(places: dict[str, str], server: S3Server) -> None:
    """What one commit of one trace costs."""
    trace = random_trace(RUN, 200)
    writers = {name: StoreWriter(address) for name, address in places.items()}
    runs = {name: writer.start_run(RUN) for name, writer in writers.items()}
    variants = {
        f"commit, {name}": lambda n=name: writers[n].commit(runs[n], [trace]) for name in places
    }
    for name, seconds in medians(variants).items():
        print(f"{name:36s} {1e3 * seconds:8.1f} ms")
    asked = requests(server, lambda: writers["s3"].commit(runs["s3"], [trace]))
    print(f"{'commit, s3':36s} {asked:8d} requests")
    for writer in writers.values():
        writer.close()


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s in all")
