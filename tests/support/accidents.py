"""Processes that die at a chosen line of the store's code, and what they write until then."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from records import cut_tokens, of_rank, part
from same_rows import assert_same
from workers import PARTS, RUN, Piped, rich_trace, whole

import ringlens.store
from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter, Trace, TraceRecord
from ringlens.store.commit import sweep
from ringlens.store.encode import encoders
from ringlens.store.parallel.encoding import InThreads

CODE = str(Path(ringlens.store.__file__).parent)
Site = tuple[str, int]
"""A line of the store's code: file and number."""


class Fuse:
    """Watches the lines of the store's code that this process executes, in all its threads.

    Args:
        at: Kills the process (SIGKILL) just before it executes this line …
        turn: … for the ``turn``-th time; at None nothing happens.

    Attributes:
        lines: How often each line was executed.
    """

    def __init__(self, at: Site | None = None, turn: int = 1) -> None:
        self.at, self.turn = at, turn
        self.lines: Counter[Site] = Counter()

    def light(self) -> None:
        """Begin to watch, in this thread and in those that start from now on."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def put_out(self) -> None:
        """Watch no longer."""
        sys.settrace(None)
        threading.settrace(None)

    def _call(self, frame: FrameType, event: str, arg: object):
        return self._line if frame.f_code.co_filename.startswith(CODE) else None

    def _line(self, frame: FrameType, event: str, arg: object):
        if event == "line":
            site = (Path(frame.f_code.co_filename).name, frame.f_lineno)
            self.lines[site] += 1
            if site == self.at and self.lines[site] == self.turn:
                self.burn()
        return self._line

    def burn(self) -> None:
        """Die as by a power cut of this process."""
        os.kill(os.getpid(), signal.SIGKILL)


def told(item: int) -> TraceRecord:
    """The trace of an item as long as it runs: of every second one all phases are found late."""
    trace = whole(item)
    if item % 2 == 0:
        return trace
    n = len(trace.tokens.text)
    return replace(trace, tokens=replace(trace.tokens, phase=["think"] * n))


def step(item: int, start: int, stop: int, trace_id: int | None) -> TraceRecord:
    """The next part of an item's trace; the last tells tokens anew whose phase has changed."""
    trace = whole(item)
    if stop < len(trace.tokens.text):
        return part(told(item), start, stop, trace_id)
    rewritten = cut_tokens(trace.tokens, 0, start) if item % 2 and start else None
    return part(trace, start, stop, trace_id, rewritten=rewritten)


def assert_story(trace: Trace) -> None:
    """A trace of `write_story` holds, bit for bit, what was written of it."""
    item, n = trace.summary["item"], len(trace)
    if trace.summary["finish_reason"] == "running":
        assert_same(trace, part(told(item), 0, n, None), PARTS)
    else:
        assert_same(trace, whole(item), PARTS)


def write_story(
    path: Path, reports: Connection, commits: int, fuse: Fuse, stay: float = 600
) -> None:
    """All that a writer does: opens, resumes a run or starts one, commits, rewrites, finishes.

    Replaced files stay ``stay`` seconds. Reports the run, then (trace_id, tokens) of each part
    committed, last the lines executed.
    """
    encoders.SHARE_NS = 2e4  # several files a table, as of a large model
    sweep.RETIRED_STAY = timedelta(seconds=stay)
    rng = random.Random(os.getpid())
    fuse.light()
    with suppress(KeyboardInterrupt), StoreWriter(path, encoding=InThreads(2)) as writer:
        run_id = writer.unfinished(PARTS.fingerprint)
        running, item = {}, 0
        if run_id is None:
            run_id = writer.start_run(PARTS)
        else:
            writer.resume(run_id)
            fuse.put_out()
            running, item = stored(path, run_id)
            fuse.light()
        reports.send(run_id)
        for _ in range(commits):
            while len(running) < 2:
                running[item] = (None, 0)
                item += 1
            running = commit_steps(writer, run_id, running, reports, rng)
        writer.finish_run(run_id)
    fuse.put_out()
    reports.send(fuse.lines)


def stored(path: Path, run_id: str) -> tuple[dict[int, tuple[int | None, int]], int]:
    """The running traces of a run, as item → (trace_id, tokens), and the next item."""
    query = """
        select item, trace_id, n_prompt + n_think + n_answer, finish_reason
        from traces where run_id = ?
    """
    with Store(path) as store:
        rows = store.sql(query, [run_id]).fetchall()
    running = {row[0]: (row[1], row[2]) for row in rows if row[3] == "running"}
    return running, max((row[0] for row in rows), default=-1) + 1


def commit_steps(
    writer: StoreWriter, run_id: str, running: dict, reports: Connection, rng: random.Random
) -> dict:
    """Commit a next part of each running trace; report it; return those that still run."""
    records = []
    for item, (trace_id, start) in running.items():
        stop = min(start + rng.randint(1, 40), len(whole(item).tokens.text))
        records.append(step(item, start, stop, trace_id))
    ids = writer.commit(run_id, records)
    ends = [record.start + len(record.tokens.text) for record in records]
    reports.send(list(zip(ids, ends, strict=True)))
    return {
        record.item: (trace_id, end)
        for record, trace_id, end in zip(records, ids, ends, strict=True)
        if record.finish_reason == "running"
    }


def write_story_as_rank(path: Path, reports: Connection, peers: Piped, fuse: Fuse) -> None:
    """A run of several ranks with a trace in two parts; each reports the ids of each commit."""
    first, second = rich_trace(30, 0), rich_trace(40, 1)

    def mine(record: TraceRecord) -> TraceRecord:
        return of_rank(record, peers.rank, peers.size)

    fuse.light()
    with suppress(EOFError, OSError, StoreError), StoreWriter(path, peers) as writer:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [mine(first), mine(part(second, 0, 25, None))])
        reports.send(ids)
        reports.send(writer.commit(run_id, [mine(part(second, 25, 40, ids[1]))]))
        writer.finish_run(run_id)
    fuse.put_out()
    reports.send(fuse.lines)


def read_on(path: Path, reports: Connection, stop: Connection, seed: int) -> None:
    """Read whole traces and queries over all tables until told to stop.

    Reports how many reads there were, and what those that failed said.
    """
    rng = random.Random(seed)
    reads, failures = 0, []
    reports.send("reading")
    store = Store(path)
    while not stop.poll():
        if rng.random() < 0.2:
            store.close()
            store = Store(path)
        try:
            read_one(store, rng)
        except Exception as error:  # noqa: BLE001  whatever it is, it is what the test looks for
            failures.append(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        reads += 1
    store.close()
    reports.send((reads, failures))


WHOLE = """
select coalesce((select sum(n_prompt + n_think + n_answer) from traces), 0),
       (select count(*) from tokens), (select count(*) from routing), (select count(*) from heads),
       (select coalesce(sum(n), 0) from head_blocks),
       (select count(*) from traces), (select count(distinct trace_id) from traces)
"""


def read_one(store: Store, rng: random.Random) -> None:
    """One read: a random trace, every value of it; or one query over all traces."""
    ids = [row[0] for row in store.sql("select trace_id from traces").fetchall()]
    if ids and rng.random() < 0.7:
        trace = store.trace(rng.choice(ids))
        try:
            assert_story(trace)
        except AssertionError:
            # Each query sees its own moment: phases may be told anew between two of them.
            if store.trace(trace.trace_id).summary == trace.summary:
                raise
        return
    ((sizes, *found, rows, traces),) = store.sql(WHOLE).fetchall()
    layers, sparse = RUN.layers, len(RUN.sparse_layers)
    assert found == [sizes, sizes * sparse, sizes * layers, sizes * layers]
    assert rows == traces
