"""The sandbox as its users see it: answers, errors, limits, new commits, cancelling."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import random_run, random_trace
from small_store import small_store
from waiting import wait_for

from ringlens.errors import SandboxError, StoreError
from ringlens.sandbox import confine
from ringlens.sandbox.arrow_ipc import decode, encode, shown
from ringlens.sandbox.channel import FrameError
from ringlens.sandbox.sandbox import Limits, Sandbox
from ringlens.store import Store, StoreWriter
from ringlens.store.read import values
from ringlens.store.read.extent import Extent, cut

LIMITS = Limits(seconds=300, rows=100, bytes=100_000, workers=1)

here = pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("stores") / "it's [a] store*")


@pytest.fixture(scope="module")
def box(store):
    with Sandbox(store, LIMITS) as box:
        yield box


def worker_of(box):
    """The worker that an idle sandbox would use next."""
    pool = box._pool
    with pool._changed:
        assert pool._changed.wait_for(lambda: pool._idle, 300)
        return pool._idle[-1]


HONEST = (
    "select * from traces order by trace_id",
    "select count(*), min(pos) from tokens",
    "from runs",
    "select * from router_choices order by all limit 7",
    "with t as (select layer, unnest(expert_ids) as e from routing) from t order by all limit 5",
    "with recursive t as (select 1 as a union all select a + 1 from t where a < 9) from t",
    "select trace_id, count(*) from tokens group by all having count(*) > 1 order by 1",
    "select row_number() over (order by trace_id, pos) as r from tokens order by 1 limit 3",
    "select * from tokens semi join traces using (trace_id) order by trace_id, pos limit 4",
    "from (pivot tokens on phase in ('think') using count(*) group by trace_id) order by all",
    "select list_transform([1, 2], lambda x: x + 1) as l, {'a': [1, null]} as s, map {'k': 1} as m",
    "select 1::hugeint as h, 2.50::decimal(9, 2) as d, 'x'::blob as b, null as n, true as t",
    "select '2026-01-02'::date as d, '1 day 2 hours'::interval as i, '12:30'::time as t",
    "select 'nan'::double as a, '-inf'::float as b, 'é\u2003😀' as c, '' as d",
    "select 'b'::enum('a', 'b') as e, '0190a7c2-5d2c-7b4a-8d1e-3f6a9c0b1d2e'::uuid as u",
    "describe traces",
    "show tables",
    "values (1, 'a'), (2, 'b')",
    "select 1 where false",
    "select 1 -- and a comment\n;",
    "select 1 as a union all select 2 except select 3 order by a",
    "select (select max(pos) from tokens t where t.trace_id = traces.trace_id) as m from traces",
)


@here
@pytest.mark.parametrize("query", HONEST)
def test_answers_are_those_of_the_store(box, store, query):
    answer = box.sql(query)
    expected = values.project(store.sql(query), values.native).to_arrow_table()
    assert answer.table.schema.names == expected.schema.names
    assert str(answer.table.to_pydict()) == str(expected.to_pydict())
    relation = store.sql(query)
    exact = relation.exact().to_arrow_table()
    for column, kind, text in zip(
        exact.columns, relation.types, answer.readable.columns, strict=True
    ):
        nested = values.is_nested(kind)
        read = values.json_column(column, kind).to_pylist() if nested else column.to_pylist()
        assert str(text.to_pylist()) == str(read)
    assert answer.cut is None
    assert 0 < answer.seconds < LIMITS.seconds


@here
def test_answers_are_cut_by_rows_and_by_bytes(box):
    answer = box.sql("from range(101)")
    assert (answer.table.num_rows, answer.cut) == (100, "rows")
    assert box.sql("from range(100)").cut is None
    answer = box.sql("select repeat('x', 3000) as x from range(50)")
    assert (answer.table.num_rows, answer.cut) == (33, "bytes")
    with pytest.raises(StoreError, match="one row alone has more than 100,000 bytes"):
        box.sql("select repeat('x', 100001)")


@here
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("select list_resize([pg_sleep(0)], 2000000)", "one row alone has 2,000,001 values"),
        (
            "select list_resize([null], 2000000) as a, 1 as b",
            "one row alone has 2,000,002 values",
        ),
        ("select list_resize([{'a': null}], 2000000)", "one row alone has 4,000,001 values"),
        ("select [list_resize([null], 2000000)]", "one row alone has 2,000,002 values"),
        ("select map([1], [list_resize([null], 2000000)])", "one row alone has 2,000,00. values"),
        ("select list_resize([true], 2000000)", "one row alone has"),
        ("select " + ", ".join(["1"] * 1001), "gives 1,001 columns, and 1,000 are the most"),
        ("select " + ", ".join(["1"] * 30000), "gives 30,000 columns, and 1,000 are the most"),
        ("select " + "[" * 61 + "1" + "]" * 61, "nested 61 levels deep, the limit is 60"),
        ("select error(repeat('x', 5000000))", r"x… \([0-9,]{9,} characters\)"),
        ("select error(repeat('😀', 100000))", r"😀… \([0-9,]{7,} characters\)"),
        ("select repeat('x', 9000000)::enum('a')", "Could not convert|more than"),
    ],
    ids=lambda each: each[:30],
)
def test_small_answers_that_are_huge_when_read_are_refused(box, query, says):
    """In the worker: whoever asked gets a sentence and nothing to expand."""
    with pytest.raises(StoreError, match=says) as caught:
        box.sql(query)
    assert len(str(caught.value)) < 3_500


@here
def test_answers_are_cut_by_their_values(store):
    with Sandbox(store, replace(LIMITS, cells=1_000)) as box:
        answer = box.sql("select list_resize([null], 50) as a from range(90)")
        assert (answer.table.num_rows, answer.cut) == (19, "cells")
        assert answer.readable["a"].to_pylist() == [json.dumps([None] * 50)] * 19
        answer = box.sql("select * from range(60) a, range(20) b")
        assert (answer.table.num_rows, answer.cut) == (100, "rows")
        # A byte of these blobs is four of text.
        answer = box.sql("select unhex(repeat('00', 2000)) as a from range(20)")
        assert (answer.table.num_rows, answer.cut) == (9, "bytes")
        assert answer.readable.nbytes + answer.table.nbytes <= LIMITS.bytes


@here
def test_long_and_equal_names_are_told_apart(box):
    long = "x" * 20_000
    answer = box.sql(f'select 1 as n, 2 as n, 3 as "{long}", 4 as "{long}y"')
    assert answer.table.to_pylist() == [
        {
            "n": 1,
            "n_1": 2,
            f"{'x' * 500}… (20,000 characters)": 3,
            f"{'x' * 500}… (20,001 characters)": 4,
        }
    ]


def test_a_cut_table_is_the_longest_that_fits():
    table = pa.table({"a": ["x" * n for n in (5, 0, 30, 7, 100)]})
    for size in range(60, 220, 7):
        kept, why = cut(table, Extent(5, 1, 100, size))
        assert kept.nbytes <= size
        if why:
            assert table.slice(0, kept.num_rows + 1).nbytes > size
    assert decode(encode(table).to_pybytes()).equals(table)


@here
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "empty"),
        ("  -- nothing\n", "empty"),
        ("select 1; select 2", "one statement at a time: these are 2"),
        ("drop view traces", "only SELECT can run here, and this is DROP"),
        ("pivot tokens on phase using count(*)", "PIVOT must name its values"),
        ("select '\ud83d'", r"holds half a character at place 9 \(a lone surrogate\)"),
        ("update extensions", "only SELECT can run here"),
        ("with x as (copy (select 1) to 'x') select 1", "this one holds COPY"),
        ("from read_csv('x')", "read_csv is not for use here"),
        ("selec 1", "syntax error"),
        ("from nowhere", "there is no table nowhere: the store has activations"),
        ("select nothing from traces", "The columns are: traces: trace_id"),
        ("select 'a'::int", "Could not convert string 'a' to INT32"),
        ("select error('my parquet is damaged')", "my parquet is damaged"),
        ("select '" + "x" * 100_001 + "'", "100,010 characters: 100,000 are the most"),
    ],
)
def test_errors_are_sentences(box, query, says):
    with pytest.raises(StoreError, match=says):
        box.sql(query)
    assert box.sql("select 1 as a").table.to_pylist() == [{"a": 1}]


@here
def test_new_commits_and_new_tables_are_seen(tmp_path):
    run = random_run()
    with (
        StoreWriter(tmp_path / "store") as writer,
        Store(tmp_path / "store") as store,
        Sandbox(store, LIMITS) as box,
    ):
        count = "select (select count(*) from traces) as t, (select count(*) from routing) as r"
        assert box.sql(count).table.to_pylist() == [{"t": 0, "r": 0}]
        run_id = writer.start_run(run)
        bare = {"routing": None, "router_logits": None, "heads": None}
        writer.commit(run_id, [random_trace(run, 20, **bare)])
        assert box.sql(count).table.to_pylist() == [{"t": 1, "r": 0}]
        before = worker_of(box).process.pid
        writer.commit(run_id, [random_trace(run, 20, seed=2, **bare)])
        assert box.sql(count).table.to_pylist() == [{"t": 2, "r": 0}]
        assert worker_of(box).process.pid == before
        writer.commit(run_id, [random_trace(run, 20, seed=3)])
        assert box.sql(count).table.to_pylist() == [{"t": 3, "r": 60}]
        assert worker_of(box).process.pid != before  # it could not read the new folder


@here
def test_a_query_that_takes_too_long_is_stopped(store):
    with Sandbox(store, replace(LIMITS, seconds=0.5)) as box:
        before = worker_of(box).process
        for query in ("select pg_sleep(600)", "select count(*) from range(10000000000000)"):
            with pytest.raises(StoreError, match=r"stopped after 0\.5 s"):
                box.sql(query)
        # Sleeping does not listen to DuckDB's own limit. It is reaped while nobody waits for that.
        wait_for(lambda: before.poll() is not None)


@here
def test_cancelling_queueing_and_too_many(store):
    with Sandbox(store, replace(LIMITS, waiting=1)) as box:
        said = {}

        def ask(name):
            try:
                box.sql("select pg_sleep(600)", name=name)
            except StoreError as error:
                said[name] = str(error)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("first", "second")]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(box._queries) == 2 and any(q.worker for q in box._queries.values()))
        with pytest.raises(StoreError, match="1 queries are running and 1 are waiting"):
            box.sql("select 1")
        assert not box.cancel("nobody")
        assert box.cancel("first")
        assert box.cancel("second")
        for thread in threads:
            thread.join(300)
        assert said == dict.fromkeys(("first", "second"), "the query was cancelled")
        assert box.sql("select 1 as a").table.to_pylist() == [{"a": 1}]


@here
def test_a_query_after_a_killed_one_waits_for_no_new_worker(store, monkeypatch):
    """The spare one answers while the next is still being started."""
    started, go_on = threading.Event(), threading.Event()

    with Sandbox(store, LIMITS) as box:
        assert box._pool.wait_until_full(300)
        assert box._pool.ready == 2
        known = {worker._sequence for worker in box._pool._idle}
        assert known == {store.definitions().sequence}  # so a first query is like any other
        start = box._pool._start

        def slow(definitions):
            started.set()
            assert go_on.wait(300)
            return start(definitions)

        monkeypatch.setattr(box._pool, "_start", slow)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(box.sql, "select pg_sleep(600)", "slow")
            wait_for(lambda: any(query.worker for query in box._queries.values()))
            assert box.cancel("slow")
            with pytest.raises(StoreError, match="was cancelled"):
                asked.result(300)
        assert started.wait(300)
        assert box.sql("select 1 as a").table.to_pylist() == [{"a": 1}]
        assert not go_on.is_set()
        go_on.set()
        assert box._pool.wait_until_full(300)


@here
def test_workers_that_did_not_start_are_made_up_for(store, monkeypatch):
    with Sandbox(store, LIMITS) as box:
        assert box._pool.wait_until_full(300)
        start = box._pool._start

        def failing(definitions):
            raise SandboxError("no memory just now")

        monkeypatch.setattr(box._pool, "_start", failing)
        for worker in list(box._pool._idle):
            worker.process.kill()
            worker.process.wait()
        with pytest.raises(SandboxError, match="no memory just now"):
            box.sql("select 1")
        monkeypatch.setattr(box._pool, "_start", start)
        assert box.sql("select 1 as a").table.to_pylist() == [{"a": 1}]
        assert box._pool.wait_until_full(300)


@here
def test_a_worker_that_dies_is_replaced(box):
    box.sql("select 1")
    process = worker_of(box).process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert box.sql("select 1 as a").table.to_pylist() == [{"a": 1}]
    assert worker_of(box).process.pid != process.pid


@here
def test_workers_end_with_their_parent(path):
    code = """
import sys, threading, time
from ringlens.store import Store
from ringlens.sandbox.sandbox import Limits, Sandbox
box = Sandbox(Store(sys.argv[1]), Limits(workers=1, seconds=300))
box.sql("select 1")
threading.Thread(target=box.sql, args=("select pg_sleep(300)",), daemon=True).start()
while not any(query.worker for query in box._queries.values()):
    time.sleep(0.01)
(query,) = box._queries.values()
print(query.worker.process.pid, flush=True)
time.sleep(300)
"""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)
        parent.kill()
    wait_for(lambda: not alive(worker))


@here
def test_a_closed_sandbox_leaves_no_process_and_no_query(store):
    box = Sandbox(store, LIMITS)
    box.sql("select 1")
    process = worker_of(box).process
    said = []

    def ask():
        with pytest.raises((StoreError, SandboxError)) as caught:
            box.sql("select pg_sleep(600)")
        said.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(box._queries) == 3)
    box.close()
    for thread in threads:
        thread.join(300)
    assert len(said) == 3
    assert process.poll() is not None
    with pytest.raises(SandboxError, match="is closed"):
        box.sql("select 1")


@here
def test_what_a_worker_holds(box):
    """No environment, no descriptor of ours, one system call filter, no privileges."""
    box.sql("select 1")
    pid = worker_of(box).process.pid
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {status[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    with open(f"/proc/{pid}/limits") as file:
        limits = {line[:26].strip(): line[26:].split()[:2] for line in file}
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    environment = open(f"/proc/{pid}/environ").read()  # noqa: SIM115
    assert {pair.split("=")[0] for pair in environment.split("\0") if pair} <= {
        "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "JE_ARROW_MALLOC_CONF",
        "MALLOC_ARENA_MAX", "LC_ALL", "LD_LIBRARY_PATH",
    }  # fmt: skip
    targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert all(target.startswith(("pipe:", "/dev/null")) for target in targets), targets


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return open(f"/proc/{pid}/stat").read().split()[2] != "Z"
    return False


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_altered_answers_are_refused_or_well_formed(data):
    table = pa.table({"a": [1, 2, None], "b": ["x", "ÿ", None], "c": [[1.5], [], None]})
    body = bytearray(encode(table).to_pybytes())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FrameError):
        decode(bytes(body)).validate(full=True)


FULL = Extent(rows=1_000, columns=10, cells=100_000, bytes=1_000_000)


@cache
def nothing():
    return pa.nulls(2**31 - 1)


EXPANDING = {
    "a list of nothing": lambda: pa.ListArray.from_arrays([0, 2**31 - 1], nothing()),
    "a fixed list of nothing": lambda: pa.FixedSizeListArray.from_arrays(nothing(), 2**31 - 1),
    "a struct of nothing": lambda: pa.StructArray.from_arrays([nothing()[:200_000]], ["a"]),
    "a map of nothing": lambda: pa.MapArray.from_arrays(
        [0, 60_000], pa.array(range(60_000)), nothing()[:60_000]
    ),
    "bits": lambda: pa.array([[True] * 200_000]),
    "rows of nothing": lambda: nothing(),
    "a dictionary": lambda: pa.DictionaryArray.from_arrays(pa.array([0] * 9), ["x" * 1000]),
    "a list of a dictionary": lambda: pa.ListArray.from_arrays(
        [0, 9], pa.DictionaryArray.from_arrays(pa.array([0] * 9), ["x" * 1000])
    ),
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(
        pa.array([900], pa.int16()), pa.array(["x" * 1000])
    ),
    "a view of text": lambda: pa.array(["x" * 1000] * 9, pa.string_view()),
    "a view of a list": lambda: pa.ListViewArray.from_arrays(
        [0] * 9, [1000] * 9, pa.array(range(1000))
    ),
    "large text": lambda: pa.array(["x"], pa.large_string()),
    "an extension": lambda: pa.array([b"x" * 16], pa.uuid()),
    "a union": lambda: pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]),
    "39 digits": lambda: pa.array([b"\x00" * 15 + b"\x7f"], pa.binary(16)).view(
        pa.decimal128(38, 0)
    ),
    "too many bytes": lambda: pa.array(["x" * 1_000_001]),
}


@pytest.mark.parametrize("kind", EXPANDING)
def test_tables_that_are_larger_than_they_look_are_refused(kind):
    array = EXPANDING[kind]()
    with pytest.raises(FrameError, match=r"the table has|a column of|no table where|a schema and"):
        decode(encode(pa.table({"a": array})).to_pybytes(), FULL)


def test_tables_of_more_than_was_agreed_are_refused():
    wide = pa.table({f"c{i}": [1] for i in range(11)})
    long = pa.table({"a": range(1001)})
    shared = pa.table(dict.fromkeys("abcde", pa.array(["x" * 300_000])))  # of one buffer
    for table in (wide, long, shared):
        with pytest.raises(FrameError, match="the table has"):
            decode(encode(table).to_pybytes(), FULL)
    batch = pa.record_batch({"a": [1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(1000):
            writer.write_batch(batch)
    with pytest.raises(FrameError, match="a schema and one batch"):
        decode(sink.getvalue().to_pybytes(), FULL)
    deep = pa.array([1])
    for _ in range(70):
        deep = pa.ListArray.from_arrays([0, 1], deep)
    with pytest.raises((FrameError, pa.ArrowInvalid)):
        decode(encode(pa.table({"a": deep})).to_pybytes(), FULL)
    named = pa.table({"x" * 50_000: EXPANDING["39 digits"]()})
    with pytest.raises(FrameError) as caught:
        decode(encode(named).to_pybytes(), FULL)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("texts", [[0, 1], [1], [-1], ["0"], [True], [None], [0, 0, 0]])
def test_texts_that_are_not_there_are_refused(texts):
    table = pa.table({"a": [1], "text of a": ["1"]})
    native, readable = shown(table, [0])
    assert (native.to_pydict(), readable.to_pydict()) == ({"a": [1]}, {"a": ["1"]})
    with pytest.raises(FrameError, match="not the announced ones"):
        shown(table, texts)
    with pytest.raises(FrameError, match="without its text"):
        shown(pa.table({"a": [[1]]}), [])
