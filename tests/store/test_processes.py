"""Several processes, kills, interrupts: each trace is wholly in the store or not at all."""

import os
import random
import signal
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest
from workers import (
    KINDS,
    PARTS,
    RUN,
    ask,
    kinds,
    processes,
    write_commits,
    write_parts,
)
from writers import (
    SPARSE,
    assert_each_item_once,
    assert_no_orphans,
    assert_whole,
    assert_whole_blocks,
    drain,
    kill_writers_of_parts,
    start,
)

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check

KILLS = int(os.environ.get("RINGLENS_KILLS", "12"))


def test_a_reader_never_fails_while_another_process_writes(tmp_path_factory, tmp_path):
    StoreWriter(tmp_path).close()
    rounds = tmp_path_factory.mktemp("rounds")
    process, reports = start(write_commits, tmp_path, None, 2, rounds)
    glob = duckdb.connect()
    seen, reads = 0, 0
    with Store(tmp_path) as store:
        while reads < 12 or seen < 12:
            (rounds / str(reads)).touch()
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
    os.kill(process.pid, signal.SIGINT)
    commits = drain(reports)[1:]
    process.join()
    assert process.exitcode == 0
    assert commits == [[i, i + 1] for i in range(1, 2 * len(commits), 2)]
    whole = assert_whole(tmp_path)
    assert whole in (list(range(1, n + 1)) for n in (2 * len(commits), 2 * len(commits) + 2))


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
    with Store(tmp_path) as store:
        assert check(store).findings == []


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
    for _ in range(20_000):
        os.kill(process.pid, signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.0005)
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
        process.join(300)
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
    process.join(300)
    assert process.exitcode == 0
    ids = [trace_id for commit in drain(reports) for trace_id in commit]
    assert set(ids) <= set(assert_whole(tmp_path))
    assert_no_orphans(tmp_path)


# --- traces in parts, and runs that are resumed -----------------------------------------------


def test_a_reader_sees_whole_blocks_of_running_traces(tmp_path_factory, tmp_path):
    StoreWriter(tmp_path).close()
    rounds = tmp_path_factory.mktemp("rounds")
    process, reports = start(write_parts, tmp_path, None, rounds)
    sizes = []
    with Store(tmp_path) as store:
        while len(set(sizes)) < 8:
            (rounds / str(len(sizes))).touch()
            sizes.append(assert_whole_blocks(store))
            if sizes[-1]:
                trace = store.trace(1)
                assert trace.routing(1)["expert_ids"].shape[0] == len(trace)
        os.kill(process.pid, signal.SIGINT)
        commits = drain(reports)
        process.join()
        sizes.append(assert_whole_blocks(store))
    assert process.exitcode == 0
    assert sizes == sorted(sizes)
    assert len(commits) > 7
    assert_whole(tmp_path)
    assert_no_orphans(tmp_path)


@pytest.mark.parametrize("store", range(max(1, KILLS // 12)))
def test_killed_writers_of_parts_lose_no_block_and_resume(tmp_path, store):
    """Every process takes up the run where the one before was killed; one run, no trace twice."""
    rng = random.Random(100 + store)
    moments = [rng.uniform(0, 0.3) for _ in range(6)]
    runs = kill_writers_of_parts(tmp_path, moments, assert_whole)
    assert len(runs) == 1
    with StoreWriter(tmp_path) as writer:
        assert writer.unfinished(PARTS.fingerprint) in runs
    assert_no_orphans(tmp_path)
    assert_each_item_once(tmp_path)


def asking(path):
    """A process that asks for the unfinished run when told to."""
    ours, theirs = processes().Pipe()
    process, reports = start(ask, path, theirs)
    theirs.close()
    assert reports.recv() == "ready"
    return process, reports, ours


def test_only_one_of_those_who_ask_at_once_gets_the_run(tmp_path):
    process, reports = start(write_parts, tmp_path, None)
    run_id = reports.recv()
    alive = asking(tmp_path)
    alive[2].send("go")
    assert alive[1].recv() is None  # the first process still works on it
    process.kill()
    process.join()
    for _ in range(6):
        asked = [asking(tmp_path) for _ in range(3)]
        for _, _, tell in asked:
            tell.send("go")
        answers = [reports.recv() for _, reports, _ in asked]
        assert sorted(answers, key=str) == sorted([run_id, None, None], key=str)
        late = asking(tmp_path)
        late[2].send("go")
        assert late[1].recv() is None
        for each, _, _ in (*asked, late):
            each.kill()
            each.join()
    alive[0].kill()
    with StoreWriter(tmp_path) as writer:
        assert writer.unfinished("another command") is None
        assert writer.unfinished("") is None
        assert writer.unfinished(PARTS.fingerprint) == run_id
        writer.resume(run_id)
        with StoreWriter(tmp_path) as other, pytest.raises(StoreError, match="another process"):
            other.resume(run_id)
        writer.finish_run(run_id)
    with StoreWriter(tmp_path) as writer:
        assert writer.unfinished(PARTS.fingerprint) is None
        with pytest.raises(StoreError, match="has ended: start a new one"):
            writer.resume(run_id)
        with pytest.raises(StoreError, match="no run nothing"):
            writer.resume("nothing")


def test_the_latest_unfinished_run_is_found(tmp_path):
    with StoreWriter(tmp_path) as writer:
        runs = [writer.start_run(PARTS) for _ in range(3)]
        assert writer.unfinished(PARTS.fingerprint) is None  # this writer is alive
        writer.finish_run(runs[2])
        writer.start_run(RUN)  # without a fingerprint
    with StoreWriter(tmp_path) as writer, StoreWriter(tmp_path) as other:
        assert writer.unfinished(PARTS.fingerprint) == runs[1]
        assert other.unfinished(PARTS.fingerprint) == runs[0]
        assert other.unfinished(PARTS.fingerprint) is None
        assert other.unfinished("") is None


@pytest.fixture(scope="module", autouse=True)
def _warm_forkserver(tmp_path_factory):
    """Start the server once, so that the first kill hits a writer and not an import."""
    process, reports = start(write_commits, tmp_path_factory.mktemp("warm"), 1, 1)
    drain(reports)
    process.join()
