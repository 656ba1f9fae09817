"""Several processes on one address, and kills: on a shared disk, and on S3 on loopback."""

import os
import random
import secrets
import time

import pytest
from ranks import assert_rich, run_ranks
from s3_server import BUCKET, reached, serve
from workers import (
    KINDS,
    RUN,
    die_as_rank,
    kinds,
    rich_trace,
    write_as_rank,
    write_commits,
    write_there,
)
from writers import (
    assert_each_item_once,
    assert_nothing_left,
    assert_whole,
    drain,
    kill_writers_of_parts,
    start,
)

from ringlens.store import Store, StoreWriter
from ringlens.store.storage.folder import folder_at

SPARSE = len(RUN.sparse_layers)
KILLS = int(os.environ.get("RINGLENS_KILLS", "24"))


@pytest.fixture
def shared(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture(scope="module")
def s3():
    with serve() as server, reached(server):
        yield server


def test_writers_and_a_reader_at_once(shared):
    """The writers also make the store together."""
    workers = [start(write_commits, shared, 8, 2) for _ in range(3)]
    seen = 0
    while any(process.is_alive() for process, _ in workers):
        if not folder_at(shared).exists("store.json"):
            continue
        with Store(shared) as store:
            for _ in range(3):
                ((traces, tokens, n, routing),) = store.sql(
                    "select (select count(*) from traces), (select count(*) from tokens),"
                    " (select sum(n_prompt + n_think + n_answer) from traces),"
                    " (select count(*) from routing)"
                ).fetchall()
                assert traces >= seen
                assert (tokens, routing) == (n or 0, (n or 0) * SPARSE)
                seen = traces
    reported = [drain(reports) for _, reports in workers]
    assert [process.exitcode for process, _ in workers] == [0, 0, 0]
    ids = sorted(i for _, *commits in reported for commit in commits for i in commit)
    assert ids == list(range(1, 49))
    assert assert_whole(shared) == ids
    assert_nothing_left(shared)


@pytest.mark.parametrize("repetition", range(max(1, KILLS // 24)))
def test_killed_writers_lose_nothing(shared, repetition):
    """SIGKILL at random moments, two writers at a time, a reader all along."""
    rng = random.Random(repetition)
    acknowledged: set[int] = set()
    kills = 0
    StoreWriter(shared).close()
    with Store(shared) as watching:
        for _ in range(4):
            workers = [start(write_commits, shared, None, 2) for _ in range(2)]
            for _, reports in workers:
                reports.recv()
            end = time.monotonic() + rng.uniform(0, 0.3)
            while time.monotonic() < end:
                rows = "select count(*), coalesce(sum(n_prompt + n_think + n_answer), 0)"
                query = f"select t.*, (select count(*) from tokens) from ({rows} from traces) t"
                ((_, n, tokens),) = watching.sql(query).fetchall()
                assert n == tokens
            for process, reports in workers:
                process.kill()
                process.join()
                kills += 1
                acknowledged |= {i for commit in drain(reports) for i in commit}
            found = assert_whole(shared)
            assert acknowledged <= set(found)
            assert len(found) - len(acknowledged) <= 2 * kills
    assert_nothing_left(shared)
    with Store(shared) as store:
        for trace_id in found:
            trace = store.trace(trace_id)
            assert trace.text == kinds()[trace.summary["seed"] % KINDS].text


@pytest.mark.parametrize("repetition", range(max(1, KILLS // 24)))
def test_a_killed_writers_run_goes_on(shared, repetition):
    rng = random.Random(repetition)
    moments = [rng.uniform(0, 0.4) for _ in range(4)]
    runs = kill_writers_of_parts(shared, moments, assert_whole)
    assert len(runs) == 1
    assert_nothing_left(shared)
    assert_each_item_once(shared)


def test_ranks_upload_the_layers_that_they_own(shared):
    found, codes = run_ranks(write_as_rank, shared, 2, primary=1)
    assert codes == [0, 0]
    assert found == [[[1, 2], [2], [], found[0][-1]]] * 2
    with Store(shared) as store:
        assert_rich(store.trace(1), rich_trace(30, 0))
        assert_rich(store.trace(2), rich_trace(40, 1))
    assert_nothing_left(shared)


def test_a_killed_ranks_uploads_are_removed(shared):
    """Killed when it has uploaded its files and rank 0 does not know yet."""
    _, codes = run_ranks(die_as_rank, shared, 2, each=lambda rank: (2 if rank else None,))
    assert codes == [0, -9]
    with Store(shared) as store:
        assert_rich(store.trace(1), rich_trace(30, 0))
        assert len(store.traces()) == 1
    assert_nothing_left(shared)


def test_two_writers_on_s3_are_killed_and_another_goes_on(s3):
    address = f"s3://{BUCKET}/{secrets.token_hex(4)}"
    StoreWriter(address).close()
    workers = [start(write_there, address, s3.environment) for _ in range(2)]
    acknowledged: set[int] = set()
    with Store(address) as store:
        for _, reports in workers:
            reports.recv()
            acknowledged |= set(reports.recv())
            time.sleep(0.25)  # a reader at an address is up to 0.2 seconds behind
            assert acknowledged <= {row[0] for row in store.traces().project("trace_id").fetchall()}
        for process, reports in workers:
            process.kill()
            process.join()
            acknowledged |= {i for commit in drain(reports) for i in commit}
    found = assert_whole(address)
    assert acknowledged <= set(found)
    with StoreWriter(address) as writer:
        new = writer.commit(writer.start_run(RUN), kinds()[:1])
    assert new[0] > max(found)
    assert_nothing_left(address)


@pytest.fixture(scope="module", autouse=True)
def _warm_forkserver(tmp_path_factory):
    """Start the server once, so that the first kill hits a writer and not an import."""
    process, reports = start(write_commits, tmp_path_factory.mktemp("warm"), 1, 1)
    drain(reports)
    process.join()
