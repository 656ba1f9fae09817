"""Rollups: what they sum to is what SQL counts from routing and tokens, however it was written."""

import multiprocessing
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import OLD_STORE
from records import cut_tokens, of_rank, part, random_run, random_trace
from usage_sums import KEYS, assert_sums, counts, told
from workers import Piped

from ringlens.errors import StoreError
from ringlens.store import Alone, ChoiceArrays, Store, StoreWriter
from ringlens.store.maintain import cube, rollup
from ringlens.store.schema.usage_tables import TABLES, USAGE_BLOCK

RUN = random_run()
PHASES = ("prompt", "think", "answer")


@st.composite
def histories(draw):
    """Traces, where each is cut, and at which cuts its earlier phases are told anew."""
    traces, cuts, tellings = [], [], []
    for seed in range(draw(st.integers(1, 3))):
        tokens = draw(
            st.sampled_from(
                [1, 5, 30, USAGE_BLOCK - 1, USAGE_BLOCK, USAGE_BLOCK + 1, 2 * USAGE_BLOCK + 40]
            )
        )
        traces.append(random_trace(RUN, tokens, seed=seed, router_logits=None, heads=None))
        inside = draw(st.sets(st.integers(1, tokens), max_size=3))
        cuts.append(sorted({0, tokens} | inside))
        tellings.append(draw(st.lists(st.booleans(), min_size=5, max_size=5)))
    return traces, cuts, tellings


def in_parts(traces, cuts, tellings, rng):
    """The records of each commit, without trace ids: phases change where they are told anew."""
    now = list(traces)
    for step in range(max(map(len, cuts)) - 1):
        records = []
        for i, cut in enumerate(cuts):
            if step + 1 >= len(cut):
                continue
            begin, end = cut[step : step + 2]
            changes = {}
            if begin and tellings[i][step]:
                phase = rng.choice(PHASES, size=len(now[i].tokens.text)).tolist()
                tokens = replace(now[i].tokens, phase=phase)
                now[i] = replace(now[i], tokens=tokens)
                changes["rewritten"] = cut_tokens(tokens, 0, begin)
            records.append((i, now[i], begin, end, changes))
        yield records


def write(path, history, seed, peers, each):
    """Write a history as one rank does; ``each`` is called after every commit."""
    ids = [None] * len(history[0])
    with StoreWriter(path, peers) as writer:
        run_id = writer.start_run(RUN)
        for commit in in_parts(*history, np.random.default_rng(seed)):
            records = [
                of_rank(part(t, a, b, ids[i], **changes), peers.rank, peers.size)
                for i, t, a, b, changes in commit
            ]
            for (i, *_), trace_id in zip(commit, writer.commit(run_id, records), strict=True):
                ids[i] = trace_id
            each()


def as_ranks(path, history, seed, size):
    """Write a history by several ranks, each a thread with the layers that it owns."""
    pipes = [multiprocessing.Pipe() for _ in range(size - 1)]
    ends = [[ours for ours, _ in pipes], *([theirs] for _, theirs in pipes)]
    threads = [
        threading.Thread(
            target=write,
            args=(path, history, seed, Piped(rank, size, size - 1, ends[rank]), lambda: None),
        )
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories(), st.integers(0, 99), st.integers(1, 3))
def test_rollups_are_what_sql_counts(tmp_path_factory, history, seed, ranks):
    """Traces cut anywhere, several in a commit, phases told anew at random, by several ranks."""
    path = tmp_path_factory.mktemp("store")
    StoreWriter(path).close()
    with Store(path) as store:
        if ranks == 1:
            write(path, history, seed, Alone(), lambda: assert_sums(store))
        else:
            as_ranks(path, history, seed, ranks)
            assert_sums(store)
        stored = store.sql("select count(*) from routing").fetchall()
        tokens = sum(len(trace.tokens.text) for trace in history[0])
        assert stored == [(tokens * len(RUN.sparse_layers),)]


def make(path, lengths=(30, 300, 700)):
    """A store of whole traces."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, n, seed=n) for n in lengths])
        writer.finish_run(run_id)
    return run_id


def test_retelling_leaves_the_rollups_of_neighbours(tmp_path):
    """One file of rollups holds two traces; only the one told anew is counted again."""
    traces = [random_trace(RUN, 60, seed=i) for i in range(2)]
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        first, second = writer.commit(run_id, [part(t, 0, 40, None) for t in traces])
        query = "from usage_traces where trace_id = ? order by all"
        before = store.sql(query, [second]).fetchall()
        tokens = replace(traces[0].tokens, phase=["answer"] * 60)
        told_anew = replace(traces[0], tokens=tokens)
        record = part(told_anew, 40, 60, first, rewritten=cut_tokens(tokens, 0, 40))
        writer.commit(run_id, [record])
        assert store.sql(query, [second]).fetchall() == before
        phases = "select distinct phase from usage_traces where trace_id = ?"
        assert store.sql(phases, [first]).fetchall() == [("answer",)]
        assert_sums(store)


def test_choices_without_reasons_have_counts_alone(tmp_path):
    """Imported runs: null where nothing is known, and tokens without a row are not counted."""
    full = random_trace(RUN, 300, router_logits=None, heads=None)
    ids = full.routing.expert_ids[:, 10:299]
    record = replace(full, routing=ChoiceArrays(full.routing.layers, ids, first=10))
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        writer.commit(writer.start_run(RUN), [record])
        for table in KEYS:
            assert told(store, table, "n") == counts(store, table, "n")
            empty = f"select count(*), count(weight), count(bias_flips) from {table}"
            assert store.sql(empty).fetchall()[0][1:] == (0, 0)
        (row,) = store.sql(
            "select sum(n), count(mean_weight), count(bias_flips) from expert_usage"
        ).fetchall()
        assert row == (ids.size, 0, 0)
        with StoreWriter(tmp_path) as other:
            run_id = store.trace(1).summary["run_id"]
            rollup.rebuild(other.rewriter(), run_id, lambda done, total: None)
        assert told(store, "usage_traces", "n") == counts(store, "usage_traces", "n")
        assert store.sql("select count(weight) from usage_traces").fetchall() == [(0,)]


# --- made anew ------------------------------------------------------------------------------


def test_a_store_of_the_first_format_gets_its_rollups(tmp_path):
    path = shutil.copytree(OLD_STORE, tmp_path / "store")
    with Store(path) as store:
        (run_id,) = rollup.missing(store)
        assert store.sql("select count(*) from usage_traces").fetchall() == [(0,)]
        with StoreWriter(path) as writer:
            rollup.rebuild(writer.rewriter(), run_id, lambda done, total: None)
        assert_sums(store)


def test_rollups_made_anew_are_those_of_the_capture(tmp_path, monkeypatch):
    monkeypatch.setattr(rollup, "GROUP_ROWS", 500)  # several files of each table
    run_id = make(tmp_path)
    with Store(tmp_path) as store:
        said = [told(store, *which) for which in (("usage_traces", "n"), ("usage_blocks", "n"))]
        old = [file.path for table in TABLES for file in store.files(table.name)]
        steps = []
        with StoreWriter(tmp_path) as writer:
            rollup.rebuild(writer.rewriter(), run_id, lambda *step: steps.append(step))
        assert steps[-1][0] == steps[-1][1] == 1030 * len(RUN.sparse_layers)
        new = [file.path for table in TABLES for file in store.files(table.name)]
        assert not set(old) & set(new)
        assert said == [told(store, *w) for w in (("usage_traces", "n"), ("usage_blocks", "n"))]
        assert_sums(store)


def test_a_running_capture_is_counted_anew_and_goes_on(tmp_path):
    """Between two parts of a trace, by another writer; then its phases change as well."""
    trace = random_trace(RUN, 600, router_logits=None, heads=None)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(trace, 0, 300, None)])
        with StoreWriter(tmp_path) as other:
            rollup.rebuild(other.rewriter(), run_id, lambda done, total: None)
        assert_sums(store)
        writer.commit(run_id, [part(trace, 300, 400, trace_id)])
        assert_sums(store)
        tokens = replace(trace.tokens, phase=["answer"] * 600)
        record = part(replace(trace, tokens=tokens), 400, 600, trace_id)
        writer.commit(run_id, [replace(record, rewritten=cut_tokens(tokens, 0, 400))])
        assert_sums(store)
        phases = "select distinct phase from usage_traces"
        assert store.sql(phases).fetchall() == [("answer",)]


def test_a_run_that_lost_a_rollup_is_found(tmp_path):
    run_id = make(tmp_path)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        (file,) = store.files("usage_blocks")
        writer.rewriter().replace(run_id, lambda files: [file.path])
        assert rollup.missing(store) == [run_id]
        rollup.rebuild(writer.rewriter(), run_id, lambda done, total: None)
        assert_sums(store)


def test_a_damaged_file_leaves_the_rollups_as_they_were(tmp_path):
    run_id = make(tmp_path)
    with Store(tmp_path) as store, StoreWriter(tmp_path) as writer:
        before = store.sql("from usage_traces order by all").fetchall()
        (file,) = store.files("routing")
        (tmp_path / file.path).write_bytes(bytes(3000))
        with pytest.raises(StoreError, match=r"routing.* is damaged .* restore a copy"):
            rollup.rebuild(writer.rewriter(), run_id, lambda done, total: None)
        assert store.sql("from usage_traces order by all").fetchall() == before
        assert not list((tmp_path / "staging").glob("*.part"))


# --- views and the cube ---------------------------------------------------------------------


def test_expert_usage_is_what_sql_counts(tmp_path):
    make(tmp_path)
    with Store(tmp_path) as store:
        found = store.sql("""
            select run_id, layer, phase, expert, n, share, mean_weight, bias_flips
            from expert_usage where n > 0 order by all""").fetchall()
        expected = store.sql("""
            with tokens_of as (
                select layer, phase, count(*) as total
                from routing join tokens using (trace_id, pos) group by all)
            select run_id, layer, phase, expert, count(*) as n,
                   count(*) / any_value(total) as share,
                   avg(weight) as mean_weight, count(*) filter (bias_flip) as bias_flips
            from router_choices join tokens using (trace_id, pos) join traces using (trace_id)
            join tokens_of using (layer, phase) group by all order by all""").fetchall()
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected, strict=True):
            assert one[:5] + one[7:] == other[:5] + other[7:]
            assert one[5:7] == pytest.approx(other[5:7], rel=1e-5)


def test_trace_summary_has_a_row_a_trace(tmp_path):
    make(tmp_path)
    with Store(tmp_path) as store:
        rows = store.sql("from trace_summary order by trace_id").to_arrow_table().to_pylist()
        assert [row["tokens"] for row in rows] == [30, 300, 700]
        for row in rows:
            trace = store.trace(row["trace_id"])
            tokens = trace.tokens()
            own = np.array(tokens["phase"]) != "prompt"
            assert row["mean_entropy"] == pytest.approx(tokens["entropy"][own].mean(), rel=1e-5)
            assert row["correct"] == trace.summary["correct"]
            assert (row["model"], row["mode"]) == ("random", "live")


def test_any_stretch_is_counted_by_the_cube(tmp_path):
    trace = random_trace(RUN, 3 * USAGE_BLOCK + 57, router_logits=None, heads=None)
    size = len(trace.tokens.text)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(trace, 0, 300, None)])
        cubes = cube.CubeCache(store)
        early = cubes.get(trace_id)
        writer.commit(run_id, [part(trace, 300, size, trace_id)])
        late = cubes.get(trace_id)
        assert (early.blocks, late.blocks) == (2, 4)
        assert cubes.get(trace_id) is late
        edges = (0, 1, 100, 255, 256, 257, 512, 600, 3 * USAGE_BLOCK, size - 1, size)
        for first in edges:
            for last in (edge for edge in edges if edge >= first):
                expected = [
                    np.bincount(ids[first:last].ravel(), minlength=RUN.experts)
                    for ids in trace.routing.expert_ids
                ]
                found = late.counts_SE(store, first, last)
                np.testing.assert_array_equal(found, expected, f"{first} to {last}")


def test_the_cache_of_cubes_is_bounded(tmp_path):
    make(tmp_path, lengths=(300, 300, 300))
    with Store(tmp_path) as store:
        size = cube.read_cube(store, 1).cumulative_BSE.nbytes
        cubes = cube.CubeCache(store, limit=2 * size)
        first = cubes.get(1)
        for trace_id in (2, 3):
            cubes.get(trace_id)
        assert cubes.bytes == 2 * size
        assert cubes.get(1) is not first
