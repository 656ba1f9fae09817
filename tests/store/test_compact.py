"""Compaction: the same rows in fewer files, for readers, writers and traces that go on."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from compacted import rows, run_compact
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import part, random_run, random_trace
from same_rows import assert_same
from usage_sums import assert_sums, told
from workers import rich_trace

from ringlens.errors import StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter
from ringlens.store.maintain import compact
from ringlens.store.maintain.compact import FIXED
from ringlens.store.schema import instruments
from ringlens.store.schema.table import Size

RUN = random_run()
GRID_KEY = ("layer", "trace_id", "pos")


def make(path, traces, commits=1):
    """Traces, each in its own commit and in some parts."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        for trace in traces:
            size = len(trace.tokens.text)
            edges = np.linspace(0, size, commits + 1).astype(int)
            trace_id = None
            for begin, end in itertools.pairwise(sorted(set(edges.tolist()))):
                (trace_id,) = writer.commit(run_id, [part(trace, begin, end, trace_id)])
        writer.finish_run(run_id)
    return run_id


def test_the_same_rows_in_fewer_files(tmp_path):
    traces = [rich_trace(n, n) for n in (300, 40, 9, 700)]
    make(tmp_path, traces, commits=3)
    with Store(tmp_path) as store:
        before = rows(store)
        sums = [told(store, "usage_traces", "n"), told(store, "usage_blocks", "weight")]
        groups = run_compact(tmp_path)
        assert {group.table.name for group in groups} == {
            t.name for t in store.tables() if len(before.get(t.name, [1])) and t.name not in FIXED
        }
        assert rows(store) == before
        assert sums == [told(store, "usage_traces", "n"), told(store, "usage_blocks", "weight")]
        assert_sums(store)
        for trace_id, trace in enumerate(traces, start=1):
            assert_same(store.trace(trace_id), trace, RUN)
        for table in store.tables():
            assert len(store.files(table.name)) <= 1
        assert run_compact(tmp_path) == []
    assert not list((tmp_path / "staging").iterdir())


def place(size, layer, trace_id, pos):
    """Where a row of a table of layers and tokens stands: its rectangle, and its place there."""
    band = size.rows // size.positions
    return (layer // band, trace_id, pos // size.positions), (layer, pos)


def test_files_are_sorted_and_cut_for_reading(tmp_path, monkeypatch):
    small = Size(rows=64, positions=32)
    rows = [
        replace(d, table=replace(d.table, row_group=small)) if d.name == "routing" else d
        for d in instruments.INSTRUMENTS
    ]
    monkeypatch.setattr(instruments, "INSTRUMENTS", tuple(rows))
    make(tmp_path, [random_trace(RUN, n, seed=n) for n in (50, 200, 31, 7, 5)], commits=2)
    run_compact(tmp_path)
    with Store(tmp_path) as store:
        for table in store.tables():
            key = GRID_KEY if table.row_group else table.key
            for file in store.files(table.name):
                found = pq.ParquetFile(tmp_path / file.path)
                assert found.schema_arrow == table.arrow
                columns = found.read(list(key))
                keys = list(zip(*(columns[name].to_pylist() for name in key), strict=True))
                if table.row_group:
                    keys = [place(table.row_group, *row) for row in keys]
                assert keys == sorted(keys)
        (file,) = store.files("routing")
        assert (file.first_trace, file.last_trace) == (1, 5)
        found = pq.ParquetFile(tmp_path / file.path)
    seen = set()
    for group in range(found.num_row_groups):
        columns = found.read_row_group(group, list(GRID_KEY))
        assert columns.num_rows <= 64
        keys = zip(*(columns[name].to_pylist() for name in GRID_KEY), strict=True)
        rectangles = {place(small, *row)[0] for row in keys}
        assert not rectangles & seen  # each is whole in one row group
        seen |= rectangles


def test_sums_of_parts_become_one_row(tmp_path):
    make(tmp_path, [random_trace(RUN, 600)], commits=5)
    with Store(tmp_path) as store:
        count = "select count(*) > count(distinct (trace_id, layer, {})) from usage_{}"
        tables = (("phase", "traces"), ("block", "blocks"))
        assert [store.sql(count.format(*t)).fetchall() for t in tables] == [[(True,)]] * 2
        run_compact(tmp_path)
        assert [store.sql(count.format(*t)).fetchall() for t in tables] == [[(False,)]] * 2
        assert_sums(store)


def test_large_groups_are_cut_between_traces(tmp_path):
    """Traces of one commit share files; they are parted by their lengths, each whole in one."""
    traces = [random_trace(RUN, 100 + n, seed=n, heads=None) for n in range(8)]
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        ids = writer.commit(run_id, [part(t, 0, 50, None) for t in traces])
        writer.commit(
            run_id, [part(t, 50, len(t.tokens.text), i) for t, i in zip(traces, ids, strict=True)]
        )
        writer.finish_run(run_id)
    with Store(tmp_path) as store:
        before = rows(store)
        size = sum(file.bytes for file in store.files("routing"))
        run_compact(tmp_path, target=size // 3, small=size)
        assert rows(store) == before
        files = sorted(store.files("routing"), key=lambda f: f.first_trace)
        assert len(files) in (3, 4)
        assert all(a.last_trace < b.first_trace for a, b in itertools.pairwise(files))
        for trace_id, trace in zip(ids, traces, strict=True):
            assert len(store.files("routing", trace_id, trace_id)) == 1
            assert_same(store.trace(trace_id), trace, RUN)


def test_running_traces_are_left_alone(tmp_path):
    traces = [random_trace(RUN, 30, seed=i) for i in range(4)]
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        for trace in traces[:3]:
            writer.commit(run_id, [trace])
        (running,) = writer.commit(run_id, [part(traces[3], 0, 10, None)])
        assert run_compact(tmp_path) == []
        run_compact(tmp_path, running=True)
        assert len(store.files("routing")) == 2
        assert len(store.files("routing", running, running)) == 1
        writer.commit(run_id, [part(traces[3], 10, 30, running)])
        writer.finish_run(run_id)
        run_compact(tmp_path)
        assert len(store.files("routing")) == 1
        for trace_id, trace in enumerate(traces, start=1):
            assert_same(store.trace(trace_id), trace, RUN)
        assert_sums(store)


def test_a_file_replaced_meanwhile_leaves_its_group(tmp_path, monkeypatch):
    make(tmp_path, [random_trace(RUN, n, seed=n) for n in (30, 40)])
    with Store(tmp_path) as store, StoreWriter(tmp_path) as writer:
        before = rows(store)
        groups = compact.plan(store)
        first = compact.plan(store)[:1]
        compact.compact(writer.rewriter(), first, lambda done, total: None)
        compact.compact(writer.rewriter(), groups, lambda done, total: None)
        assert rows(store) == before
        assert len(store.files(first[0].table.name)) == 1


def test_choices_without_reasons_stay_null(tmp_path):
    full = random_trace(RUN, 40, router_logits=None, heads=None)
    ids = full.routing.expert_ids[:, :39]
    record = replace(full, routing=ChoiceArrays(full.routing.layers, ids))
    make_choices = [record, record]
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        for each in make_choices:
            writer.commit(run_id, [each])
        writer.finish_run(run_id)
        before = rows(store)
        run_compact(tmp_path)
        assert rows(store) == before
        assert store.trace(1).routing(1)["weights"] is None
        assert store.sql("select count(weight) from usage_blocks").fetchall() == [(0,)]


def test_a_damaged_file_stops_compaction_and_changes_nothing(tmp_path):
    make(tmp_path, [random_trace(RUN, n, seed=n) for n in (30, 40)])
    with Store(tmp_path) as store:
        files = store.files("routing")
        (tmp_path / files[0].path).write_bytes(bytes(3000))
        with pytest.raises(StoreError, match="is damaged"):
            run_compact(tmp_path)
        assert store.files("routing") == files
        assert not list((tmp_path / "staging").iterdir())


def test_a_run_that_ends_with_many_small_files_is_compacted(tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "MANY", 5)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        for seed in range(6):
            writer.commit(run_id, [random_trace(RUN, 20, seed=seed)])
        before = rows(store) | {"runs": None}
        writer.finish_run(run_id)
        compact.tidy(writer.rewriter(), run_id)
        assert rows(store) | {"runs": None} == before
        assert {len(store.files(t.name)) for t in store.tables()} == {0, 1}


def test_what_a_killed_compaction_spilled_is_swept(tmp_path):
    with StoreWriter(tmp_path) as writer:
        alive = writer.rewriter().writer
        for name in ("0123456789abcdef", alive):
            (tmp_path / "staging" / f"{name}-00000001.spill").mkdir()
            (tmp_path / "staging" / f"{name}-00000001.spill" / "block").touch()
        StoreWriter(tmp_path).close()
        found = [path.name for path in (tmp_path / "staging").glob("*.spill")]
        assert found == [f"{alive}-00000001.spill"]


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 60), min_size=2, max_size=4), st.integers(1, 3), st.data())
def test_any_history_survives_compaction(tmp_path_factory, lengths, commits, data):
    path = tmp_path_factory.mktemp("store")
    traces = [random_trace(RUN, n, seed=i) for i, n in enumerate(lengths)]
    make(path, traces, commits)
    with Store(path) as store:
        before = rows(store)
        total = sum(file.bytes for file in store.files("routing"))
        run_compact(path, target=data.draw(st.integers(1000, 2 * total)), small=2 * total)
        assert rows(store) == before
        assert_sums(store)


@pytest.mark.extra
def test_wide_rows_do_not_need_memory_for_all_of_them(tmp_path, monkeypatch):
    """Usage of many traces, more than what sorting may hold."""
    run = random_run(
        layers=16, dense=0, experts=256, groups=8, groups_kept=4, k=8, record=("routing",)
    )
    trace = replace(random_trace(run, 12), router_logits=None, heads=None)
    monkeypatch.setattr(compact, "MEMORY", "40MB")
    monkeypatch.setattr(compact, "SORT_BYTES", 2**16)
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        for _ in range(10):
            writer.commit(run_id, [trace] * 30)
        writer.finish_run(run_id)
    with Store(tmp_path) as store:
        before = told(store, "usage_traces", "n")
        run_compact(tmp_path)
        (file,) = store.files("usage_traces")
        metadata = pq.read_metadata(tmp_path / file.path)
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert max(sizes) <= compact.USAGE_ROWS < sum(sizes)
        assert told(store, "usage_traces", "n") == before
