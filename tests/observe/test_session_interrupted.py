"""Runs that are killed, watched, taken up again, or shared out to several processes."""

import random
import time

import numpy as np
import pytest
import session_worker
import warm
from sessions import assert_same
from torchrun_environment import WORKER, environment

from ringlens.errors import RinglensError
from ringlens.store import Store

TOKENS = 260
WHOLE = """
select count(*) from traces t
left join (select trace_id, count(*) n, max(pos) + 1 last from tokens group by all) k
using (trace_id)
left join (select trace_id, count(*) n from routing group by all) r using (trace_id)
left join (select trace_id, count(*) n from heads group by all) h using (trace_id)
where (n_prompt + n_think + n_answer, k.last, r.n, h.n)
    is distinct from (k.n, k.n, 3 * k.n, 4 * k.n)
"""


def start(*arguments):
    return warm.Process([WORKER, *arguments], env=environment())


def finish(process):
    """Wait for success."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]


def kill(*processes):
    """SIGKILL processes that run."""
    for process in processes:
        assert process.poll() is None, process.stderr.read()[-3000:]
        process.kill()
    for process in processes:
        process.communicate()


def tokens_in(path):
    """Committed tokens; 0 while there is no store."""
    try:
        with Store(path) as store:
            return store.sql("select count(*) from tokens").fetchall()[0][0]
    except RinglensError:
        return 0


def wait_for(path, tokens, process, seconds=600):
    deadline = time.monotonic() + seconds
    while tokens_in(path) < tokens:
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What comes out when nothing happens: two traces, committed block by block."""
    path = tmp_path_factory.mktemp("whole") / "s"
    return session_worker.capture(path, TOKENS, 2)


def test_a_long_trace_is_committed_in_blocks_and_equals_one_commit(whole, tmp_path):
    commits = {file.path for file in whole.files("routing")}
    assert len(commits) >= TOKENS // 64
    at_once = session_worker.capture(tmp_path / "s", TOKENS, 2, commit_every=3600)
    assert len(at_once.files("routing")) == 1
    for trace_id in (1, 2):
        assert_same(whole.trace(trace_id), at_once.trace(trace_id))


@pytest.mark.slow
def test_a_killed_run_is_readable_and_goes_on_where_it_stopped(whole, tmp_path):
    path, rng, resumed = tmp_path / "s", random.Random(4), set()
    for wanted in (1, 150, 300):
        process = start(path, TOKENS, 2, tmp_path, 240)  # of 260 forwards, so that it never ends
        wait_for(path, wanted, process)
        time.sleep(rng.uniform(0, 0.3))  # any instant will do
        kill(process)
        with Store(path) as store:
            assert store.sql(WHOLE).fetchall() == [(0,)]
            assert store.sql("select count(*) from runs").fetchall() == [(1,)]
            found = store.sql("select resumed_at from traces").fetchall()
            resumed |= {position for (positions,) in found for position in positions}
    finish(start(path, TOKENS, 2))
    with Store(path) as store:
        rows = store.sql(
            "select item, finish_reason, len(resumed_at) from traces order by item"
        ).fetchall()
        assert [row[:2] for row in rows] == [(0, "length"), (1, "length")]
        assert all(row[2] >= 1 for row in rows)
        assert store.sql(WHOLE).fetchall() == [(0,)]
        assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]
        for trace_id in (1, 2):
            assert_same(store.trace(trace_id), whole.trace(trace_id))


@pytest.mark.slow
def test_a_running_trace_can_be_watched(tmp_path):
    path = tmp_path / "s"
    stops = (100, 190, 280)
    process = start(path, 300, 1, tmp_path, *stops)
    seen = []
    for stop in stops:
        wait_for(path, seen[-1][0] + 1 if seen else 1, process)
        with Store(path) as store:
            rows = store.sql(
                "select n_prompt + n_think + n_answer, finish_reason from traces"
            ).fetchall()
            assert store.sql(WHOLE).fetchall() == [(0,)]
            seen.append(rows[0])
        (tmp_path / f"go-{stop}").touch()
    finish(process)
    lengths = [length for length, _ in seen]
    assert lengths == sorted(set(lengths))
    assert {reason for _, reason in seen} == {"running"}


@pytest.mark.slow
def test_processes_share_the_problems_out(tmp_path):
    warm.run_ranks([WORKER, tmp_path / "two", 20], 2, environment())
    alone = session_worker.capture(tmp_path / "one", 20)
    with Store(tmp_path / "two") as two:
        assert two.sql("select count(*) from runs where finished is not null").fetchall() == [(1,)]
        items = dict(two.sql("select item, trace_id from traces").fetchall())
        assert sorted(items) == list(range(len(session_worker.PROMPTS)))
        assert two.sql("select count(*) from traces").fetchall() == [(len(items),)]
        parallel = two.sql("select parallel->>'processes' from runs").fetchall()
        assert parallel == [("2",)]
        for item, trace_id in alone.sql("select item, trace_id from traces").fetchall():
            assert_same(two.trace(items[item]), alone.trace(trace_id))


@pytest.mark.slow
def test_processes_that_share_problems_resume_after_a_kill(tmp_path):
    path = tmp_path / "s"
    processes = warm.ranks([WORKER, path, 150, 6, tmp_path, 190], 2, environment())  # of 300 each
    wait_for(path, 200, processes[0])
    kill(*processes)
    with Store(path) as store:
        assert store.sql("select count(*) from runs where finished is null").fetchall() == [(1,)]
    finish(start(path, 150))  # one process may finish what two began
    with Store(path) as store:
        items = store.sql("select item, finish_reason from traces order by item").fetchall()
        assert items == [(item, "length") for item in range(len(session_worker.PROMPTS))]
        assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]
        assert store.sql(WHOLE).fetchall() == [(0,)]
        np.testing.assert_array_equal(
            store.sql("select distinct n_prompt + n_answer + n_think - n_prompt from traces")
            .to_arrow_table()
            .column(0)
            .to_numpy(),
            [150],
        )
