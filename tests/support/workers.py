"""Processes that write to a store, for the tests that kill, limit or interrupt them."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from records import (
    of_rank,
    part,
    random_attention,
    random_run,
    random_trace,
    random_vectors,
)

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter, TraceRecord
from ringlens.store.check.check import check
from ringlens.store.check.repair import repair

RUN = random_run()
KINDS = 4
PARTS = replace(RUN, fingerprint="traces in parts")
LENGTHS = (9, 40, 100)


@cache
def processes() -> multiprocessing.context.BaseContext:
    """Processes forked from a clean one that has the imports done; they start at once."""
    context = multiprocessing.get_context("forkserver")
    # A child imports the main module, pytest, and pyarrow imports pandas when it is first used.
    context.set_forkserver_preload(["workers", "pytest", "pandas", "pyarrow.dataset"])
    # The server does not get this process's sys.path before Python 3.13 (gh-117378).
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def kinds() -> list[TraceRecord]:
    """The traces that workers write, told apart by ``seed % KINDS``."""
    return [random_trace(RUN, 20 + 40 * kind, seed=kind) for kind in range(KINDS)]


A_ROUND = 4


def wait_for_round(rounds: Path | None, done: int) -> None:
    """Wait until there are files in ``rounds``, if given, for more than ``done`` commits.

    So a store does not grow with the time that a busy machine takes to look at it.
    """
    while rounds is not None and done >= A_ROUND * len(list(rounds.iterdir())):
        time.sleep(0.01)


def write_commits(
    path: Path, reports: Connection, commits: int | None, size: int, rounds: Path | None = None
) -> None:
    """Commit ``size`` traces at a time, for ever if ``commits`` is None; report each commit's ids.

    At most `A_ROUND` commits for each file in the folder ``rounds``. Ends quietly when interrupted,
    as a program that the user stops would.
    """
    traces = kinds()
    done = 0
    with suppress(KeyboardInterrupt), StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        reports.send(run_id)
        while commits is None or done < commits:
            wait_for_round(rounds, done)
            batch = [
                replace(traces[seed % KINDS], seed=seed)
                for seed in range(done * size, (done + 1) * size)
            ]
            reports.send(writer.commit(run_id, batch))
            done += 1
        writer.finish_run(run_id)


def write_there(path: str, reports: Connection, environment: dict[str, str]) -> None:
    """As `write_commits`, for ever, where the environment says how to reach the store."""
    os.environ.update(environment)
    write_commits(path, reports, None, 2)


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


def annotate_without_rights(path: Path, reports: Connection) -> None:
    """Annotate a store as a user who may not write there; report what was said."""
    if os.geteuid() == 0:
        os.setuid(65534)
    with Store(path) as store:
        reports.send(outcome(lambda: store.annotate(1, label="x", author="Ada")))


def outcome(call) -> object:
    """What a call returns, or the sentence of its StoreError."""
    try:
        return call()
    except StoreError as error:
        return str(error)


def whole(item: int) -> TraceRecord:
    """The trace that `write_parts` makes of an item."""
    return random_trace(PARTS, LENGTHS[item % len(LENGTHS)], seed=item % 6, item=item)


def write_parts(
    path: Path, reports: Connection, commits: int | None, rounds: Path | None = None
) -> None:
    """Take up the unfinished run, or start one; write its traces in blocks of random size.

    Two traces are in the works at any time. Reports (trace_id, tokens) of each part committed.
    At most `A_ROUND` commits for each file in the folder ``rounds``.
    """
    rng = random.Random(os.getpid())
    done = 0
    with suppress(KeyboardInterrupt), StoreWriter(path) as writer, Store(path) as store:
        run_id = writer.unfinished(PARTS.fingerprint)
        running: dict[int, tuple[int | None, int]] = {}
        if run_id is None:
            run_id, item = writer.start_run(PARTS), 0
        else:
            writer.resume(run_id)
            rows = store.sql(
                "select item, trace_id, n_prompt + n_think + n_answer, finish_reason from traces"
                " where run_id = ?",
                [run_id],
            ).fetchall()
            item = max((row[0] for row in rows), default=-1) + 1
            running = {row[0]: (row[1], row[2]) for row in rows if row[3] == "running"}
        reports.send(run_id)
        while commits is None or done < commits:
            wait_for_round(rounds, done)
            while len(running) < 2:
                running[item] = (None, 0)
                item += 1
            records = []
            for each, (trace_id, start) in running.items():
                trace = whole(each)
                stop = min(start + rng.randint(1, 40), len(trace.tokens.text))
                records.append(part(trace, start, stop, trace_id))
            ids = writer.commit(run_id, records)
            ends = [record.start + len(record.tokens.text) for record in records]
            reports.send(list(zip(ids, ends, strict=True)))
            running = {
                record.item: (trace_id, end)
                for record, trace_id, end in zip(records, ids, ends, strict=True)
                if record.finish_reason == "running"
            }
            done += 1


def ask(path: Path, reports: Connection, start: Connection) -> None:
    """Open the store, wait for the word, ask for the unfinished run; stay until told to go."""
    with StoreWriter(path) as writer:
        reports.send("ready")
        start.recv()
        found = writer.unfinished(PARTS.fingerprint)
        if found is not None:
            writer.resume(found)
        reports.send(found)
        with suppress(EOFError):
            start.recv()


@dataclass
class Piped:
    """Peers over pipes: rank 0 has one to each other rank.

    ``dies_at`` counts the exchanges (`gather` or `broadcast`) after which this process kills
    itself, before it takes part in the next.
    """

    rank: int
    size: int
    primary: int
    pipes: list[Connection]
    dies_at: int | None = None

    def broadcast(self, value):
        """Rank 0's value."""
        self._live()
        if self.rank:
            return self.pipes[0].recv()
        for pipe in self.pipes:
            pipe.send(value)
        return value

    def gather(self, value):
        """Everyone's, on rank 0."""
        self._live()
        if self.rank:
            self.pipes[0].send(value)
            return None
        return [value, *(pipe.recv() for pipe in self.pipes)]

    def _live(self) -> None:
        if self.dies_at == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.dies_at is not None:
            self.dies_at -= 1


def rich_trace(tokens: int, seed: int) -> TraceRecord:
    """A trace with vectors and attention as well."""
    rng = np.random.default_rng(seed)
    pos = range(0, tokens, 3)
    vectors = (
        random_vectors(rng, "residual", (0, 1, 2, 3), pos),
        random_vectors(rng, "embedding", (), pos),
    )
    top = random_attention(rng, (1, 2), (0, 3), pos)
    return random_trace(RUN, tokens, seed=seed, vectors=vectors, attention=top)


def write_as_rank(path: Path, reports: Connection, peers: Piped) -> None:
    """Two traces, the second in two parts; report the ids of each commit and the bytes."""
    first, second = rich_trace(30, 0), rich_trace(40, 1)
    with StoreWriter(path, peers) as writer:
        run_id = writer.start_run(RUN)

        def commit(*records: TraceRecord) -> list[int]:
            return writer.commit(run_id, [of_rank(r, peers.rank, peers.size) for r in records])

        ids = commit(first, part(second, 0, 25, None))
        reports.send(ids)
        reports.send(commit(part(second, 25, 40, ids[1])))
        reports.send(commit())
        writer.finish_run(run_id)
        reports.send(writer.bytes_written)


def die_as_rank(path: Path, reports: Connection, peers: Piped, dies_at: int | None) -> None:
    """Commit one trace, then another, in which this rank may kill itself; report what is said."""
    with StoreWriter(path, peers) as writer:
        run_id = writer.start_run(RUN)
        records = [of_rank(rich_trace(30, seed), peers.rank, peers.size) for seed in (0, 1)]
        reports.send(writer.commit(run_id, records[:1]))
        peers.dies_at = dies_at
        try:
            reports.send(writer.commit(run_id, records[1:]))
        except (EOFError, OSError) as error:
            reports.send(type(error).__name__)


def fail_as_rank(path: Path, reports: Connection, peers: Piped, failing: int, how: str) -> None:
    """A commit that one rank makes fail, then one that succeeds; report what is said."""
    record = of_rank(rich_trace(30, 0), peers.rank, peers.size)
    mine = peers.rank == failing
    with StoreWriter(path, peers) as writer:
        run_id = writer.start_run(RUN)
        wrong = [record]
        if mine and how == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        if mine and how == "wrong record":
            wrong = [replace(record, n_think=99)]
        if mine and how == "other traces":
            wrong = [replace(part(record, 20, 30, 7), vectors=(), attention=None)]
        if mine and how == "bug":
            wrong = [replace(record, routing="no arrays")]
        try:
            reports.send(outcome(lambda: writer.commit(run_id, wrong)))
        except AttributeError as error:
            reports.send(type(error).__name__)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        reports.send(outcome(lambda: writer.commit("nothing", [record])))
        reports.send(writer.commit(run_id, [record]))


def open_as_rank(path: Path, reports: Connection, peers: Piped, apart: bool) -> None:
    """Open the store, rank 1 perhaps at another place; report what is said."""
    mine = path / "elsewhere" if apart and peers.rank == 1 else path
    reports.send(outcome(lambda: StoreWriter(mine, peers).path.name))


def check_without_rights(path: Path, reports: Connection) -> None:
    """Check a store as a user who may not write there; report the kinds of findings."""
    if os.geteuid() == 0:
        os.setuid(65534)
    with Store(path) as store:
        reports.send([found.kind for found in check(store).findings])


def repair_store(path: Path, reports: Connection) -> None:
    """Repair a store, and take out what is damaged."""
    reports.send("ready")
    repair(path, True, lambda _: None)
