"""Processes that write to a store, for the tests that kill, limit or interrupt them."""

from __future__ import annotations

import multiprocessing
import os
import resource
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from records import random_run, random_trace

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter, TraceRecord

RUN = random_run()
KINDS = 4


def processes() -> multiprocessing.context.BaseContext:
    """Processes forked from a clean one that has the imports done; they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workers"])
    return context


def kinds() -> list[TraceRecord]:
    """The traces that workers write, told apart by ``seed % KINDS``."""
    return [random_trace(RUN, 20 + 40 * kind, seed=kind) for kind in range(KINDS)]


def write_commits(path: Path, reports: Connection, commits: int | None, size: int) -> None:
    """Commit ``size`` traces at a time, for ever if ``commits`` is None; report each commit's ids.

    Ends quietly when interrupted, as a program that the user stops would.
    """
    traces = kinds()
    done = 0
    with suppress(KeyboardInterrupt), StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        reports.send(run_id)
        while commits is None or done < commits:
            batch = [
                replace(traces[seed % KINDS], seed=seed)
                for seed in range(done * size, (done + 1) * size)
            ]
            reports.send(writer.commit(run_id, batch))
            done += 1
        writer.finish_run(run_id)


def write_with_file_limit(path: Path, reports: Connection, limit: int) -> None:
    """Commit one trace while no file may grow past ``limit`` bytes; report what was said."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        reports.send(outcome(lambda: writer.commit(run_id, kinds()[3:])))


def write_without_rights(path: Path, reports: Connection) -> None:
    """Try to open, write and read a store as a user who may not write there."""
    if os.geteuid() == 0:
        os.setuid(65534)
    reports.send(outcome(lambda: StoreWriter(path)))
    reports.send(outcome(lambda: Store(path).sql("select count(*) from tokens").fetchall()))


def outcome(call) -> object:
    """What a call returns, or the sentence of its StoreError."""
    try:
        return call()
    except StoreError as error:
        return str(error)
