"""Traces in parts: the row replaced, the rows added, the replaced files deleted late."""

import json
import shutil
import sqlite3
import threading
import zlib
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import OLD_STORE
from records import cut_tokens, part, random_run, random_trace
from same_rows import assert_same

from ringlens.errors import NotInStoreError, ObservationError, StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.commit import sweep
from ringlens.store.schema.captured import tables
from ringlens.store.storage.layout import table_names

RUN = random_run()
TRACE = random_trace(RUN, 30)


def on_disk(path, table):
    return sorted(str(file.relative_to(path)) for file in path.glob(f"{table}/*/*.parquet"))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_traces_in_any_parts_come_back_whole(tmp_path_factory, data):
    """Several traces, each cut anywhere, the parts of different traces in the same commits."""
    path = tmp_path_factory.mktemp("store")
    traces = [random_trace(RUN, data.draw(st.integers(1, 30)), seed=i) for i in range(3)]
    lengths = [len(trace.tokens.text) for trace in traces]
    cuts = [sorted({0, n} | data.draw(st.sets(st.integers(0, n), max_size=3))) for n in lengths]
    ids = [None] * len(traces)
    with StoreWriter(path) as writer, Store(path) as store:
        run_id = writer.start_run(RUN)
        for step in range(max(map(len, cuts)) - 1):
            now = [i for i, c in enumerate(cuts) if step + 1 < len(c)]
            records = [part(traces[i], *cuts[i][step : step + 2], ids[i]) for i in now]
            for i, trace_id in zip(now, writer.commit(run_id, records), strict=True):
                assert ids[i] in (None, trace_id)
                ids[i] = trace_id
                known = cuts[i][step + 1]
                trace = store.trace(trace_id)
                assert len(trace) == known == len(trace.tokens()["text"])
        assert len(store.traces()) == len(traces)
        for trace_id, trace in zip(ids, traces, strict=True):
            assert_same(store.trace(trace_id), trace, RUN)


def test_each_trace_has_one_row_in_each_file_list(tmp_path):
    """A trace that has ended stays where it is carried to while its neighbours go on."""
    traces = [random_trace(RUN, 30, seed=i) for i in range(3)]
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [part(t, 0, 10, None) for t in traces])
        for stop in (20, 30):
            writer.commit(run_id, [part(traces[2], stop - 10, stop, ids[2])])
            rows = store.sql("select trace_id, n_prompt + n_think + n_answer from traces")
            assert sorted(rows.fetchall()) == [(1, 10), (2, 10), (3, stop)]
            assert len(store.files("traces")) == 1
        assert store.trace(3).summary["finish_reason"] == "stop"
        assert store.trace(1).summary["finish_reason"] == "running"


def test_place_and_interruptions_are_kept(tmp_path):
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 10, None, item=7)])
        record = part(TRACE, 10, 30, trace_id, item=7, resumed_at=(10,))
        writer.commit(run_id, [record])
        summary = store.trace(trace_id).summary
        assert (summary["item"], summary["resumed_at"]) == (7, [10])


def test_a_trace_may_end_without_a_further_token(tmp_path):
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 20, None)])
        end = part(TRACE, 20, 20, trace_id, finish_reason="length")
        writer.commit(run_id, [end])
        trace = store.trace(trace_id)
        assert (len(trace), trace.summary["finish_reason"]) == (20, "length")
        assert_same(trace, part(TRACE, 0, 20, None), RUN)


def test_tokens_told_anew_replace_the_stored_ones(tmp_path):
    """Also of a trace whose neighbours in the same files stay as they are."""
    other = random_trace(RUN, 30, seed=1)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        first, second = writer.commit(run_id, [part(t, 0, 10, None) for t in (TRACE, other)])
        parts = [part(TRACE, 10, 20, first), part(other, 10, 20, second)]
        writer.commit(run_id, parts)
        before = store.sql("from tokens where trace_id = 2 order by pos").fetchall()
        n = len(TRACE.tokens.text)
        rewritten = replace(TRACE.tokens, phase=["answer"] * n)
        record = replace(
            part(replace(TRACE, tokens=rewritten), 20, 30, first),
            rewritten=cut_tokens(rewritten, 0, 20),
        )
        assert (record.n_prompt, record.n_answer) == (0, n)
        writer.commit(run_id, [record])
        assert store.trace(first).tokens()["phase"] == ["answer"] * n
        assert_same(store.trace(first), replace(TRACE, tokens=rewritten), RUN)
        assert store.sql("from tokens where trace_id = 2 order by pos").fetchall() == before
        assert store.sql("select count(*) from tokens").fetchall() == [(50,)]


def test_the_end_of_a_trace_may_retell_its_tokens_without_a_further_one(tmp_path):
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 30, None, finish_reason="running")])
        rewritten = replace(TRACE.tokens, phase=["think"] * 30)
        told = replace(TRACE, tokens=rewritten)
        writer.commit(run_id, [part(told, 30, 30, trace_id, rewritten=rewritten)])
        assert_same(store.trace(trace_id), told, RUN)
        assert store.trace(trace_id).summary["n_think"] == 30
        assert len(store.files("tokens")) == 1


@pytest.mark.parametrize("damage", [bytes(3000), None])
def test_a_damaged_file_keeps_its_traces_from_going_on_and_is_named(tmp_path, damage):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [part(TRACE, 0, 10, None)])
        ids += writer.commit(run_id, [part(TRACE, 0, 10, None)])
        file = tmp_path / on_disk(tmp_path, "traces")[0]
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        files = on_disk(tmp_path, "*")
        with pytest.raises(StoreError, match=rf"{file.name} is (damaged|missing).* restore a copy"):
            writer.commit(run_id, [part(TRACE, 10, 20, ids[0])])
        assert on_disk(tmp_path, "*") == files
        writer.commit(run_id, [part(TRACE, 10, 20, ids[1])])


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"trace_id": 9}, NotInStoreError, "there is no trace 9 in run .* to continue"),
        ({"start": 9}, ObservationError, r"n_prompt .* is 20, but the part has 10 tokens after"),
        ({"start": 0}, ObservationError, "starts at 0: it must start where"),
        ({"trace_id": None}, ObservationError, "a new trace starts at 0"),
        ({"text": "!" * 99}, ObservationError, "do not tile the text of 99"),
        ({"resumed_at": (21,)}, ObservationError, "position 21, outside the trace"),
        (
            {"rewritten": cut_tokens(TRACE.tokens, 0, 9)},
            ObservationError,
            r"rewritten.token_id is \(9,",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_refused(tmp_path, changes, error, sentence):
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 10, None)])
        good = part(TRACE, 10, 20, trace_id)
        files = on_disk(tmp_path, "*")
        with pytest.raises(error, match=sentence):
            writer.commit(run_id, [TRACE, replace(good, **changes)])
        assert on_disk(tmp_path, "*") == files
        assert len(store.traces()) == 1
        assert writer.commit(run_id, [good]) == [trace_id]


def test_parts_go_on_exactly_where_the_trace_ends(tmp_path):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 10, None)])
        with pytest.raises(ObservationError, match=r"has 10 tokens in the store, .* starts at 12"):
            writer.commit(run_id, [part(TRACE, 12, 20, trace_id)])
        moved = part(random_trace(RUN, 30, seed=3), 10, 20, trace_id)
        with pytest.raises(ObservationError, match=r"does not continue after .*`rewritten`"):
            writer.commit(run_id, [moved])
        last = part(TRACE, 10, 30, trace_id)
        with pytest.raises(ObservationError, match="continued twice in one commit"):
            writer.commit(run_id, [last, last])
        writer.commit(run_id, [last])
        with pytest.raises(ObservationError, match=r"has ended \('stop'\)"):
            writer.commit(run_id, [part(TRACE, 10, 30, trace_id)])


def test_an_open_trace_stays_as_it_was_read(tmp_path):
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 10, None)])
        trace = store.trace(trace_id)
        writer.commit(run_id, [part(TRACE, 10, 30, trace_id)])
        assert_same(trace, part(TRACE, 0, 10, None), RUN)
        assert len(store.trace(trace_id)) == 30


def test_replaced_files_stay_a_while_for_running_queries(tmp_path, monkeypatch):
    with Store(make(tmp_path)) as store:
        query = f"select n_think from {store.scan('traces', store.files('traces'))}"
        early, late = store.sql(query), store.sql(query)
        before = on_disk(tmp_path, "traces")
        with StoreWriter(tmp_path) as writer:
            run_id = store.trace(1).summary["run_id"]
            writer.commit(run_id, [part(TRACE, 10, 20, 1)])
        assert set(before) < set(on_disk(tmp_path, "traces"))
        assert early.fetchall() == [(part(TRACE, 0, 10, None).n_think,)]
        StoreWriter(tmp_path).close()
        assert set(before) < set(on_disk(tmp_path, "traces"))

        monkeypatch.setattr(sweep, "RETIRED_STAY", timedelta(0))
        StoreWriter(tmp_path).close()
        current = [file.path for file in store.files("traces")]
        assert on_disk(tmp_path, "traces") == current
        with pytest.raises(StoreError, match="has changed since this query was made"):
            late.fetchall()
        assert len(store.trace(1)) == 20


def test_a_long_run_deletes_what_it_replaces(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "RETIRED_STAY", timedelta(0))
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 1, None)])
        for start in range(1, 30):
            writer.commit(run_id, [part(TRACE, start, start + 1, trace_id)])
        assert len(on_disk(tmp_path, "traces")) == 1
        writer.finish_run(run_id)
        assert len(on_disk(tmp_path, "runs")) == 1
    with Store(tmp_path) as store:
        assert_same(store.trace(trace_id), TRACE, RUN)


def make(path):
    with StoreWriter(path) as writer:
        writer.commit(writer.start_run(RUN), [part(TRACE, 0, 10, None)])
    return path


def test_two_writers_continue_traces_of_one_file(tmp_path):
    """Both replace the same file of ``traces``: neither's row is lost."""
    traces = [random_trace(RUN, 30, seed=i) for i in range(2)]
    failures = []
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [part(t, 0, 1, None) for t in traces])

    def write(which):
        try:
            with StoreWriter(tmp_path) as writer:
                for start in range(1, 30):
                    writer.commit(run_id, [part(traces[which], start, start + 1, ids[which])])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with Store(tmp_path) as store:
        assert len(store.traces()) == 2
        for trace_id, trace in zip(ids, traces, strict=True):
            assert_same(store.trace(trace_id), trace, RUN)


def test_a_commit_looks_again_when_another_replaced_its_files(tmp_path, monkeypatch):
    """The other commit comes at the worst moment: after the rows to keep were read."""
    traces = [random_trace(RUN, 30, seed=i) for i in range(2)]
    with StoreWriter(tmp_path) as writer, StoreWriter(tmp_path) as other:
        run_id = writer.start_run(RUN)
        first, second = writer.commit(run_id, [part(t, 0, 10, None) for t in traces])
        complete, rivals = writer._manifest.complete, [part(traces[1], 10, 30, second)]

        def late(*args):
            if rivals:
                other.commit(run_id, [rivals.pop()])
            return complete(*args)

        monkeypatch.setattr(writer._manifest, "complete", late)
        writer.commit(run_id, [part(traces[0], 10, 30, first)])
    with Store(tmp_path) as store:
        for trace_id, trace in zip((first, second), traces, strict=True):
            assert_same(store.trace(trace_id), trace, RUN)
        assert len(store.files("traces")) == 1


def test_a_store_of_the_first_format_is_read_and_added_to(tmp_path):
    """Written before traces came in parts: no ``item``, no vectors, no ``retired``."""
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    expected = [
        random_trace(RUN, 20, seed=0),
        random_trace(RUN, 24, seed=1),
        random_trace(RUN, 9, seed=2, heads=None),
    ]

    def assert_old(store):
        for trace_id, record in enumerate(expected, start=1):
            trace = store.trace(trace_id)
            assert_same(trace, record, RUN)
            assert trace.summary["item"] is trace.summary["resumed_at"] is None

    with Store(path) as store:
        assert_old(store)
        assert store.sql("select count(*), max(vector) from activations").fetchall() == [(0, None)]
        with pytest.raises(NotInStoreError, match="its run recorded no activations"):
            store.trace(1).vectors("resid", 1)
        old_run = store.trace(1).summary["run_id"]
        with StoreWriter(path) as writer:
            assert writer.commit(old_run, [part(TRACE, 0, 10, None, item=3)]) == [4]
            writer.commit(old_run, [part(TRACE, 10, 30, 4, item=3)])
            writer.finish_run(old_run)
            assert writer.commit(writer.start_run(RUN), [TRACE]) == [5]
        assert_old(store)
        assert_same(store.trace(4), TRACE, RUN)
        assert store.trace(4).summary["item"] == 3
        assert len(store.runs()) == 2
        for table in tables(RUN.experts):
            assert store.sql(f"from {table.name}").columns == table.arrow.names


def test_rows_of_old_files_are_carried_over_with_nulls(tmp_path):
    """A trace that shares its old file with another is continued; the other row moves along."""
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    (file,) = path.glob("traces/*/part-00000002.parquet")
    rows = pq.ParquetFile(file).read()
    reasons = pa.array(["stop", "running"])
    column = rows.schema.get_field_index("finish_reason")
    pq.write_table(rows.set_column(column, rows.schema.field(column), reasons), file)
    with sqlite3.connect(path / "manifest.sqlite") as manifest:
        name, size = str(file.relative_to(path)), file.stat().st_size
        manifest.execute("update files set bytes = ? where path = ?", (size, name))
    longer = random_trace(RUN, 24, seed=1)
    more = random_trace(RUN, 3, seed=9).tokens
    shift = len(longer.text)
    tokens = replace(more, start=more.start + shift, end=more.end + shift, phase=["answer"] * 3)
    with StoreWriter(path) as writer, Store(path) as store:
        run_id = store.trace(2).summary["run_id"]
        record = replace(
            part(longer, 24, 24, 2, finish_reason="stop"),
            tokens=tokens,
            text=longer.text + "".join(more.text),
            n_answer=longer.n_answer + 3,
            routing=None,
            router_logits=None,
            heads=None,
        )
        writer.commit(run_id, [record])
        assert_same(store.trace(1), random_trace(RUN, 20, seed=0), RUN)
        assert store.trace(1).summary["resumed_at"] is None
        assert (len(store.trace(2)), store.trace(2).text) == (27, record.text)
        assert len(store.traces()) == 3


def test_a_writer_brings_a_store_of_format_1_up_to_date(tmp_path):
    """Old files keep their rows and get no checksum; new ones have theirs; readers go on."""
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    with Store(path) as reader:
        old = {file.path: file for name in table_names() for file in reader.files(name)}
        assert {file.checksum for file in old.values()} == {None}
        with StoreWriter(path) as writer:
            assert json.loads((path / "store.json").read_text())["format_version"] == 2
            writer.commit(writer.start_run(RUN), [TRACE])
        files = [file for name in table_names() for file in reader.files(name)]
        with Store(path) as second:
            assert [f for name in table_names() for f in second.files(name)] != []
            files = [file for name in table_names() for file in second.files(name)]
    assert {file.path: file for file in files if file.path in old} == old
    for file in files:
        if file.path not in old:
            assert file.checksum == f"crc32:{zlib.crc32((path / file.path).read_bytes()):08x}"
    made = json.loads((OLD_STORE / "store.json").read_text())
    assert json.loads((path / "store.json").read_text()) == made | {"format_version": 2}


def test_a_writer_of_format_1_may_go_on_beside_a_new_one(tmp_path):
    """It names the columns that it fills, so a column more does not stop it."""
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    StoreWriter(path).close()
    manifest = sqlite3.connect(path / "manifest.sqlite")
    manifest.execute(
        "insert or replace into files (path, table_name, run_id, first_trace, last_trace, rows,"
        " bytes, commit_id) select 'x', table_name, run_id, first_trace, last_trace, rows, bytes,"
        " commit_id from files limit 1"
    )
    assert manifest.execute("select checksum from files where path = 'x'").fetchall() == [(None,)]


def test_readers_leave_a_store_of_format_1_as_it_is(tmp_path):
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with Store(path) as store:
        assert len(store.sql("from steps")) == 0
        assert store.sql("select count(*) from routing").fetchall()[0][0] > 0
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f in before} == before
