"""Several processes, kills, interrupts: each trace is wholly in the store or not at all."""

import os
import random
import signal
import time
from contextlib import closing

import duckdb
import numpy as np
import pytest
from workers import KINDS, RUN, kinds, processes, write_commits

from ringlens.store import Store, StoreWriter
from ringlens.store.layout import table_names
from ringlens.store.manifest import Manifest

SPARSE = len(RUN.sparse_layers)
KILLS = int(os.environ.get("RINGLENS_KILLS", "24"))

COUNTS = """
select trace_id, n_prompt + n_think + n_answer, tokens.n, routing.n, router_logits.n, heads.n
from traces
left join (select trace_id, count(*) as n from tokens group by all) tokens using (trace_id)
left join (select trace_id, count(*) as n from routing group by all) routing using (trace_id)
left join (select trace_id, count(*) as n from router_logits group by all) router_logits
using (trace_id)
left join (select trace_id, count(*) as n from heads group by all) heads using (trace_id)
order by trace_id
"""


def start(target, *args):
    """Start a worker; return it and the end of the pipe that it reports to."""
    ours, theirs = processes().Pipe(duplex=False)
    path, *rest = args
    process = processes().Process(target=target, args=(path, theirs, *rest), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def drain(reports):
    """Everything a worker reported, also when it was killed while it wrote."""
    found = []
    try:
        while True:
            found.append(reports.recv())
    except (EOFError, OSError):
        return found


def assert_whole(path):
    """Every trace has all its rows in all tables; return the ids."""
    with Store(path) as store:
        rows = store.sql(COUNTS).fetchall()
        for trace_id, n, tokens, routing, logits, heads in rows:
            whole = (n, n * SPARSE, n * SPARSE, n * RUN.layers)
            assert (tokens, routing, logits, heads) == whole, trace_id
        for table in ("tokens", "routing", "router_logits", "heads"):
            strangers = f"select count(*) from {table} anti join traces using (trace_id)"
            assert store.sql(strangers).fetchall() == [(0,)]
    return [row[0] for row in rows]


def assert_no_orphans(path):
    """What lies in the table folders is what the manifest has, and nothing is staged."""
    with Store(path) as store:
        known = {path / file.path for name in table_names() for file in store.files(name)}
    with closing(Manifest.read(path)) as manifest:
        known |= {path / name for name in manifest.retired(before="9999")}
    assert {file for name in table_names() for file in path.glob(f"{name}/**/*.*")} == known
    assert list((path / "staging").iterdir()) == []


def test_a_reader_never_fails_while_another_process_writes(tmp_path):
    StoreWriter(tmp_path).close()
    process, reports = start(write_commits, tmp_path, 60, 2)
    glob = duckdb.connect()
    seen, reads = 0, 0
    with Store(tmp_path) as store:
        while process.is_alive():
            ((traces, tokens, n, routing, heads),) = store.sql(
                "select (select count(*) from traces), (select count(*) from tokens),"
                " (select sum(n_prompt + n_think + n_answer) from traces),"
                " (select count(*) from routing), (select count(*) from heads)"
            ).fetchall()
            assert traces >= seen
            assert tokens == (n or 0)
            assert (routing, heads) == (tokens * SPARSE, tokens * RUN.layers)
            if traces:
                assert store.trace(traces).router_logits(1).shape[1] == RUN.experts
                files = f"read_parquet('{tmp_path}/router_logits/*/*.parquet')"
                assert glob.sql(f"select sum(pos) from {files}").fetchall()[0][0] >= 0
            seen, reads = traces, reads + 1
    process.join()
    assert process.exitcode == 0
    assert assert_whole(tmp_path) == list(range(1, 121))
    assert reads > 10
    assert drain(reports)[1:] == [[i, i + 1] for i in range(1, 120, 2)]


def test_several_writers_get_different_ids(tmp_path):
    """They also make the store together: none of them finds it ready."""
    path = tmp_path / "new" / "store"
    workers = [start(write_commits, path, 10, 3) for _ in range(4)]
    reported = [drain(reports) for _, reports in workers]
    for process, _ in workers:
        process.join()
        assert process.exitcode == 0
    ids = [i for _, *commits in reported for commit in commits for i in commit]
    assert len(set(ids)) == 120
    assert assert_whole(path) == sorted(ids)
    assert_no_orphans(path)
    with Store(path) as store:
        runs = store.sql("select run_id, count(*), count(distinct seed) from traces group by all")
        assert sorted(runs.fetchall()) == sorted((run_id, 30, 30) for run_id, *_ in reported)
        assert len(store.sql("from runs where finished is not null")) == 4


def test_two_processes_share_a_run(tmp_path):
    with StoreWriter(tmp_path) as first, StoreWriter(tmp_path) as second:
        run_id = first.start_run(RUN)
        assert second.commit(run_id, kinds()[:1]) == [1]
        assert first.commit(run_id, kinds()[:1]) == [2]
        second.finish_run(run_id)
    assert assert_whole(tmp_path) == [1, 2]


@pytest.mark.parametrize("store", range(max(1, KILLS // 6)))
def test_killed_writers_lose_nothing(tmp_path, store):
    """SIGKILL at random moments: what was acknowledged is there, what is there is whole."""
    rng = random.Random(store)
    acknowledged: set[int] = set()
    for kill in range(1, 7):
        process, reports = start(write_commits, tmp_path, None, 2)
        reports.recv()
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        acknowledged |= {trace_id for commit in drain(reports) for trace_id in commit}
        found = assert_whole(tmp_path)
        assert acknowledged <= set(found)
        assert len(found) - len(acknowledged) <= 2 * kill  # a commit each not yet reported
    with StoreWriter(tmp_path) as writer:
        new = writer.commit(writer.start_run(RUN), kinds()[:1])
    assert new[0] > max(found, default=0)
    assert_no_orphans(tmp_path)
    assert_values(tmp_path, found)


def assert_values(path, trace_ids):
    expected = kinds()
    with Store(path) as store:
        for trace_id in trace_ids:
            trace = store.trace(trace_id)
            wanted = expected[trace.summary["seed"] % KINDS]
            assert trace.text == wanted.text
            np.testing.assert_array_equal(trace.router_logits(2), wanted.router_logits[1])


def stop_amid_commit(process, path):
    """Stop a process while it has staged a file and not yet committed it."""
    for _ in range(1000):
        os.kill(process.pid, signal.SIGSTOP)
        if list((path / "staging").glob("*.part")):
            return
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("the writer never staged a file")


def test_what_a_killed_writer_staged_is_swept(tmp_path):
    for _ in range(3):
        process, reports = start(write_commits, tmp_path, None, 2)
        reports.recv()
        stop_amid_commit(process, tmp_path)
        process.kill()
        process.join()
        assert list((tmp_path / "staging").glob("*.part"))
        before = assert_whole(tmp_path)
        StoreWriter(tmp_path).close()
        assert_no_orphans(tmp_path)
        assert assert_whole(tmp_path) == before


def test_interrupted_writers_take_back_what_was_not_committed(tmp_path):
    """Ctrl-C at random moments: nothing to sweep is left, nothing committed is lost."""
    rng = random.Random(1)
    acknowledged: set[int] = set()
    for _ in range(8):
        process, reports = start(write_commits, tmp_path, None, 2)
        reports.recv()
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGINT)
        process.join(20)
        assert process.exitcode == 0
        acknowledged |= {trace_id for commit in drain(reports) for trace_id in commit}
        assert acknowledged <= set(assert_whole(tmp_path))
        assert_no_orphans(tmp_path)


def test_a_living_writers_files_are_not_swept(tmp_path):
    """A writer that stands still in the middle of a commit goes on as if nothing had been."""
    process, reports = start(write_commits, tmp_path, None, 2)
    reports.recv()
    for _ in range(5):
        stop_amid_commit(process, tmp_path)
        StoreWriter(tmp_path).close()  # sweeps
        assert list((tmp_path / "staging").glob("*.part"))
        os.kill(process.pid, signal.SIGCONT)
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 0
    ids = [trace_id for commit in drain(reports) for trace_id in commit]
    assert set(ids) <= set(assert_whole(tmp_path))
    assert_no_orphans(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _warm_forkserver(tmp_path_factory):
    """Start the server once, so that the first kill hits a writer and not an import."""
    process, reports = start(write_commits, tmp_path_factory.mktemp("warm"), 1, 1)
    drain(reports)
    process.join()
