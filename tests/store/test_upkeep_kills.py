"""SIGKILL amid compaction, recount, deletion and merge, while a writer commits and readers read."""

import os
import random
import time

import numpy as np
from upkeep_workers import DELETED, MERGED, RUN, keep_up, make, once, trace_of, write_on
from usage_sums import assert_sums
from writers import assert_no_orphans, drain, start

from ringlens.store import Store, StoreWriter

KILLS = int(os.environ.get("RINGLENS_KILLS", "8"))
TRACES, COPIED = 24, 4

WHOLE = """
with found as (
    select trace_id, n_prompt + n_think + n_answer as size, tokens.n as tokens,
           tokens.different as different, routing.n as routing, router_logits.n as logits,
           heads.n as heads
    from traces
    left join (select trace_id, count(*) as n, count(distinct pos) as different
               from tokens group by all) tokens using (trace_id)
    left join (select trace_id, count(*) as n from routing group by all) routing using (trace_id)
    left join (select trace_id, count(*) as n from router_logits group by all) router_logits
    using (trace_id)
    left join (select trace_id, count(*) as n from heads group by all) heads using (trace_id))
select (select count(*) from traces), (select count(distinct trace_id) from traces),
       (select count(*) from found where not (tokens = size and different = size
            and routing = size * $sparse and logits = size * $sparse and heads = size * $layers)),
       (select count(*) from tokens anti join traces using (trace_id)),
       (select count(*) from routing anti join traces using (trace_id)),
       (select sum(tokens) from usage_traces) = (select count(*) from routing),
       (select sum(tokens) from usage_blocks) = (select count(*) from routing),
       (select count(*) from traces join runs using (run_id) where model = $merged)
"""


def read(store):
    """One look at everything at one moment: whatever is there is whole."""
    params = {"sparse": len(RUN.sparse_layers), "layers": RUN.layers, "merged": MERGED.model}
    ((rows, traces, broken, *strangers, by_trace, by_block, copied),) = store.sql(
        WHOLE, params
    ).fetchall()
    assert rows == traces
    assert (broken, *strangers) == (0, 0, 0)
    assert by_trace and by_block
    assert copied in (0, COPIED)


def assert_values(store, trace_id, seed):
    trace, expected = store.trace(trace_id), trace_of(seed)
    assert trace.text == expected.text
    assert trace.tokens()["phase"] == expected.tokens.phase
    np.testing.assert_array_equal(trace.router_logits(2), expected.router_logits[1])
    ids = trace.routing(1)["expert_ids"]
    np.testing.assert_array_equal(ids, expected.routing.expert_ids[0])


def test_upkeep_that_is_killed_loses_nothing(tmp_path):
    path, other = tmp_path / "store", tmp_path / "other"
    run_id = make(path, DELETED, TRACES)
    make(other, MERGED, COPIED)
    rng = random.Random(KILLS)
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    writer, written = start(write_on, path, rounds)
    acknowledged, deleted = {}, set()
    reads = 0
    with Store(path) as store:
        for kill in range(KILLS):
            (rounds / str(kill)).touch()
            process, reports = start(keep_up, path, other, kill)
            reports.recv()
            until = time.monotonic() + rng.uniform(0.02, 0.5)
            while reads <= kill or time.monotonic() < until:
                read(store)
                reads += 1
            process.kill()
            process.join()
            said = drain(reports)
            deleted |= {trace_id for what, trace_id in said if what == "deleted"}
            doubtful = {trace_id for what, trace_id in said[-1:] if what == "deleting"}
            while len(acknowledged) <= kill or written.poll():
                seed, trace_id = written.recv()
                acknowledged[trace_id] = seed

            read(store)
            query = "select trace_id, item from traces where run_id = ?"
            left = dict(store.sql(query, [run_id]).fetchall())
            expected = set(range(1, TRACES + 1)) - deleted
            assert expected - doubtful <= set(left) <= expected
            deleted |= expected - set(left)
            for trace_id in rng.sample(sorted(left), min(2, len(left))):
                assert_values(store, trace_id, left[trace_id])
        writer.kill()
        writer.join()
        assert writer.exitcode == -9  # it was writing to the end, undisturbed
        assert_written(store, acknowledged, rng)
        assert min(len(acknowledged), reads) >= KILLS

        # Started again, all of it comes to its end.
        finish(path, other)
        read(store)
        assert_sums(store)
        assert_written(store, acknowledged, rng)
    StoreWriter(path).close()
    assert_no_orphans(path)


def assert_written(store, acknowledged, rng):
    """All that the writer was told to be stored is there; the values of some are looked at."""
    found = dict(store.sql("select trace_id, item from traces").fetchall())
    assert acknowledged.items() <= found.items()
    for trace_id in rng.sample(sorted(acknowledged), min(10, len(acknowledged))):
        assert_values(store, trace_id, acknowledged[trace_id])


def finish(path, other):
    class Quiet:
        def send(self, value):
            pass

    for what in ("rollup", "compact", "merge", "delete"):
        once(path, Quiet(), other, random.Random(0), what)
