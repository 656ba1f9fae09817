"""Processes that keep a store in shape, or write to it meanwhile, for the tests that kill them."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

from records import random_run, random_trace

from ringlens.store import Store, StoreWriter
from ringlens.store.maintain import compact, copying, delete, merge, rollup

RUN = random_run()
TRACE_SIZES = (5, 30, 90, 300)
A_ROUND = 4
DELETED = random_run(model="to be deleted")
MERGED = random_run(model="to be merged")


def trace_of(seed: int):
    """The trace that is written with a seed."""
    size = TRACE_SIZES[seed % len(TRACE_SIZES)]
    return random_trace(RUN, size, seed=seed % len(TRACE_SIZES), item=seed)


def make(path: Path, run, traces: int) -> str:
    """A run that has ended, two traces a commit."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for seed in range(0, traces, 2):
            writer.commit(run_id, [trace_of(seed), trace_of(seed + 1)])
        writer.finish_run(run_id)
    return run_id


def write_on(path: Path, reports: Connection, rounds: Path) -> None:
    """Commit a trace every now and then, until killed; report each id.

    At most `A_ROUND` for each file in the folder ``rounds``, so that the store does not grow with
    the time that a busy machine takes for a round.
    """
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        seed = 0
        while True:
            if seed < A_ROUND * len(list(rounds.iterdir())):
                reports.send((seed, *writer.commit(run_id, [trace_of(seed)])))
                seed += 1
            time.sleep(0.05)


def keep_up(path: Path, reports: Connection, other: Path, seed: int) -> None:
    """Compact, count anew, delete and merge in a random order, until killed."""
    rng = random.Random(seed)
    reports.send(("started", 0))
    while True:
        once(path, reports, other, rng, rng.choice(("compact", "rollup", "delete", "merge")))


def once(path: Path, reports: Connection, other: Path, rng: random.Random, what: str) -> None:
    """One of these; what is to be deleted is reported before and after."""
    with Store(path) as store, StoreWriter(path) as writer:
        rewriter = writer.rewriter()
        runs = dict(store.sql("select model, run_id from runs").fetchall())
        if what == "compact":
            size = rng.choice((20_000, 100_000, compact.TARGET))
            groups = compact.plan(store, size, small=size, running=True)
            compact.compact(rewriter, groups, lambda done, total: None)
        elif what == "rollup":
            rollup.rebuild(rewriter, runs[DELETED.model], lambda done, total: None)
        elif what == "delete":
            ids = copying.trace_ids_of(store, runs[DELETED.model])
            for trace_id in rng.sample(ids, min(1, len(ids))):
                reports.send(("deleting", trace_id))
                delete.delete_traces(rewriter, runs[DELETED.model], [trace_id], store.tables())
                reports.send(("deleted", trace_id))
        elif MERGED.model in runs:
            delete.delete_run(rewriter, runs[MERGED.model])
        else:
            with Store(other) as source:
                merge.merge(source, rewriter)


def export_until_killed(path, out, form, reports):
    """Export, and die when the first trace is done."""

    def killed(done, total):
        reports.send(done)
        os.kill(os.getpid(), signal.SIGKILL)

    with Store(path) as store:
        form(store, [1, 2, 3], out, None, killed)
