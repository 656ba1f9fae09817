"""Death at every line of the writer, and every call of the disk that fails: nothing is lost.

RINGLENS_KILLS=300 kills three hundred writers, each at another line as far as there are lines.
"""

import errno
import os
import random
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from accidents import Fuse, assert_story, read_on, step, write_story, write_story_as_rank
from paths import OLD_STORE
from ranks import assert_rich, run_ranks
from records import random_trace
from same_rows import assert_same
from workers import PARTS, RUN, outcome, processes, rich_trace
from writers import assert_no_orphans, assert_whole, drain, start

from ringlens.store import Store, StoreWriter
from ringlens.store.manifest import manifest

KILLS = int(os.environ.get("RINGLENS_KILLS", "24"))
STORES = max(1, (KILLS - 18) // 6)
PER_STORE = 6


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """How often a writer executes each line of the store's code."""
    path = tmp_path_factory.mktemp("lines") / "store"
    process, reports = start(write_story, path, 8, Fuse())
    *_, seen = drain(reports)
    process.join()
    assert process.exitcode == 0
    return seen


@pytest.fixture(scope="module")
def old_lines(tmp_path_factory, lines):
    """Lines that are executed only where an older store is opened and replaced files are deleted.

    Those of the second: what was replaced a moment ago is kept in all other tests.
    """
    path = shutil.copytree(OLD_STORE, tmp_path_factory.mktemp("old") / "store")
    process, reports = start(write_story, path, 4, Fuse(), 0)
    *_, seen = drain(reports)
    process.join()
    assert process.exitcode == 0
    return Counter({site: turns for site, turns in seen.items() if site not in lines})


class Deaths:
    """Fuses for one line after the other, in a random order that is the same for all stores."""

    def __init__(self, lines: Counter, first: int) -> None:
        self.lines, self.next = lines, first
        self.sites = random.Random(0).sample(sorted(lines), len(lines))

    def fuse(self) -> Fuse:
        """The next."""
        site = self.sites[self.next % len(self.sites)]
        self.next += 1
        return Fuse(site, random.Random(self.next).randint(1, self.lines[site]))


class Reader:
    """A process that reads the store until it is stopped."""

    def __init__(self, path, seed):
        self.tell, theirs = processes().Pipe()
        self.process, self.reports = start(read_on, path, theirs, seed)
        theirs.close()
        assert self.reports.recv() == "reading"

    def stop(self):
        """How many reads there were, none of which may have failed."""
        self.tell.send("stop")
        found = drain(self.reports)
        self.process.join(300)
        assert self.process.exitcode == 0, "the reader itself broke"
        reads, failures = found[-1]
        assert failures == []
        return reads


def acknowledged_in(reports, known):
    """Take over which tokens of which traces a writer said were stored."""
    for said in drain(reports):
        if isinstance(said, list):
            known.update(said)


def assert_kept(path, known):
    """What was acknowledged is there and unchanged to the last bit."""
    with Store(path) as store:
        for trace_id, tokens in known.items():
            trace = store.trace(trace_id)
            assert len(trace) >= tokens
            assert_story(trace)


@pytest.mark.parametrize("store", range(STORES))
def test_writers_that_die_at_any_line_lose_nothing(tmp_path, lines, store, capsys):
    """Each dies beside a reader, some beside a living writer; the next resumes what it left."""
    path = tmp_path / "store"
    deaths = Deaths(lines, store * PER_STORE)
    known: dict[int, int] = {}
    killed = 0
    StoreWriter(path).close()
    reader = Reader(path, store)
    for turn in range(PER_STORE):
        dying, reports = start(write_story, path, 6, deaths.fuse())
        if turn % 3 == 2:
            living, living_reports = start(write_story, path, 2, Fuse())
            acknowledged_in(living_reports, known)
            living.join()
            assert living.exitcode == 0
        dying.join()
        assert dying.exitcode in (0, -9)  # 0 where it never came to its line so often
        killed += dying.exitcode == -9
        acknowledged_in(reports, known)
    reads = reader.stop()
    assert set(known) <= set(assert_whole(path))
    assert_kept(path, known)
    StoreWriter(path).close()
    assert_no_orphans(path)
    with capsys.disabled():
        print(
            f"\n{killed} killed, {len(known)} traces acknowledged, 0 lost, {reads} reads, 0 failed"
        )


@pytest.mark.parametrize("turn", range(max(2, KILLS // 12)))
def test_ranks_that_die_at_any_line_leave_no_half_trace(tmp_path, lines, turn):
    deaths = Deaths(lines, turn)
    fuse = deaths.fuse()
    fuse.turn = 1 + turn % 2
    found, codes = run_ranks(
        write_story_as_rank,
        tmp_path,
        2,
        each=lambda rank: (fuse if rank == turn % 2 else Fuse(),),
    )
    assert set(codes) <= {0, -9}
    said = max(([s for s in each if isinstance(s, list)] for each in found), key=len)
    with Store(tmp_path) as store:
        ids = [row[0] for row in store.sql("select trace_id from traces order by 1").fetchall()]
        assert ids in ([], [1, 2])
        assert len(ids) == 2 or not said
        if ids:
            assert_rich(store.trace(1), rich_trace(30, 0))
            assert len(store.trace(2)) in ((40,) if len(said) > 1 else (25, 40))
            if len(store.trace(2)) == 40:
                assert_rich(store.trace(2), rich_trace(40, 1))
    StoreWriter(tmp_path).close()
    assert_no_orphans(tmp_path)


@pytest.mark.parametrize("turn", range(max(2, KILLS // 12)))
def test_who_dies_while_an_older_store_is_opened_or_files_deleted_leaves_all(
    tmp_path, old_lines, turn
):
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    process, reports = start(write_story, path, 4, Deaths(old_lines, turn).fuse(), 0)
    drain(reports)
    process.join()
    with Store(path) as store:
        assert_same(store.trace(1), random_trace(RUN, 20, seed=0), RUN)
    with StoreWriter(path) as writer:
        (trace_id,) = writer.commit(writer.start_run(PARTS), [step(0, 0, 9, None)])
    with Store(path) as store:
        assert_same(store.trace(1), random_trace(RUN, 20, seed=0), RUN)
        assert_story(store.trace(trace_id))


# --- calls of the disk that fail ------------------------------------------------------------------


class Failing:
    """Makes the n-th of certain calls raise, in whatever thread it happens."""

    def __init__(self, n, error):
        self.n, self.error, self.calls = n, error, 0
        self._lock = threading.Lock()

    def around(self, call):
        """The call, which may raise instead."""

        def counted(*args, **kwargs):
            with self._lock:
                self.calls += 1
                fails = self.calls == self.n
            if fails:
                raise self.error
            return call(*args, **kwargs)

        return counted


class Begun:
    """A store with two running traces, and a commit that continues, rewrites and begins traces."""

    def __init__(self, path, stack):
        self.path = path
        self.writer = stack.enter_context(StoreWriter(path))
        self.run_id = self.writer.start_run(PARTS)
        self.writer.commit(self.run_id, [step(0, 0, 5, None), step(1, 0, 20, None)])
        self.store = stack.enter_context(Store(path))
        self.before = self.files()

    def files(self):
        """All files but the manifest's and the locks."""
        return {str(file) for file in self.path.rglob("*.p*")}

    def commit(self):
        """Commit the next parts, once or never."""
        parts = [step(0, 5, 9, 1), step(1, 20, 40, 2), step(2, 0, 50, None)]
        return self.writer.commit(self.run_id, parts)

    def has_gone_on(self):
        """Whether the commit is there: as a whole, and no file of it if not."""
        lengths = [len(self.store.trace(i)) for i in (1, 2)]
        if lengths == [5, 20]:
            assert len(self.store.traces()) == 2
            assert self.files() == self.before
            return False
        assert lengths == [9, 40]
        rows = self.store.sql("select trace_id from traces order by trace_id").fetchall()
        assert len(rows) == 3  # the third's number may follow some that were reserved in vain
        for (trace_id,) in rows:
            assert_story(self.store.trace(trace_id))
        return True


CALLS = {
    "fsync": (os, "fsync", OSError(errno.EIO, "Input/output error")),
    "replace": (os, "replace", OSError(errno.ENOSPC, "No space left on device")),
    "open": (os, "open", OSError(errno.EMFILE, "Too many open files")),
    "stat": (Path, "stat", OSError(errno.ESTALE, "Stale file handle")),
    "mkdir": (Path, "mkdir", OSError(errno.EDQUOT, "Disk quota exceeded")),
    "sqlite": (None, "execute", sqlite3.OperationalError("disk I/O error")),
}
EVERY = 1 if KILLS >= 240 else 5


@pytest.fixture
def sqlite_fails(monkeypatch):
    """Connections of the manifest whose statements may be made to fail."""
    holder = {"failing": Failing(0, None)}

    class Connection(sqlite3.Connection):
        def execute(self, *args):
            return holder["failing"].around(super().execute)(*args)

        def executemany(self, *args):
            return holder["failing"].around(super().executemany)(*args)

    plain = sqlite3.connect
    connect = partial(plain, factory=Connection)
    monkeypatch.setattr(
        manifest, "sqlite3", SimpleNamespace(**vars(sqlite3) | {"connect": connect})
    )
    return holder


@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_of_the_disk_fails_nothing_of_the_commit_is_stored(
    tmp_path, monkeypatch, sqlite_fails, call
):
    """Every call of a commit fails once, nothing is left of it; in the end it succeeds."""
    place, name, error = CALLS[call]
    begun, n, failed = None, 1, 0
    with ExitStack() as stack:
        while True:
            begun = begun or Begun(tmp_path / str(n), stack)
            failing = Failing(n, error)
            with monkeypatch.context() as patch:
                if place is None:
                    patch.setitem(sqlite_fails, "failing", failing)
                else:
                    patch.setattr(place, name, failing.around(getattr(place, name)))
                said = outcome(begun.commit)
            if isinstance(said, str):
                assert "nothing of this commit was stored" in said
                assert not begun.has_gone_on(), f"{call} {n}"
                failed += 1
            else:
                assert begun.has_gone_on()
                begun = None
                if failing.calls < n:
                    break
            n += EVERY
    assert failed >= 1


class Interrupt(Fuse):
    """Ctrl-C at a line of the main thread."""

    def burn(self):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt


def test_a_commit_interrupted_at_any_line_is_there_or_not(tmp_path):
    with ExitStack() as stack:
        counting = Fuse()
        begun = Begun(tmp_path / "0", stack)
        counting.light()
        begun.commit()
        counting.put_out()
        begun, outcomes = None, Counter()
        sites = random.Random(KILLS).sample(sorted(counting.lines), len(counting.lines))
        for i, site in enumerate(sites[:: 4 * EVERY], start=1):
            begun = begun or Begun(tmp_path / str(i), stack)
            fuse = Interrupt(site, random.Random(i).randint(1, counting.lines[site]))
            fuse.light()
            try:
                begun.commit()
            except KeyboardInterrupt:
                outcomes["interrupted"] += 1
            finally:
                fuse.put_out()
            if begun.has_gone_on():
                outcomes["stored"] += 1
                begun = None
    assert outcomes["interrupted"] > 0
