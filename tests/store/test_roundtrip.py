"""What is written is what is read, by ringlens and by anyone else."""

import json
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import random_run, random_trace
from same_rows import HEADS, assert_same

from ringlens.store import HeadArrays, Store, StoreWriter
from ringlens.store.encode import encoders
from ringlens.store.parallel.encoding import InThreads
from ringlens.store.schema.captured import tables
from ringlens.store.schema.table import HEADS_GROUP, LOGITS_GROUP, ROUTING_GROUP


def write(path, run, traces):
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        ids = writer.commit(run_id, traces)
        writer.finish_run(run_id)
    return run_id, ids


@st.composite
def records(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    size = draw(st.sampled_from([2, 5, 64, 80]))
    kept = draw(st.integers(1, groups))
    layers = draw(st.integers(1, 4))
    run = random_run(
        seed=draw(st.integers(0, 99)),
        layers=layers,
        dense=draw(st.integers(0, layers - 1)),
        experts=groups * size,
        groups=groups,
        groups_kept=kept,
        k=draw(st.integers(1, min(8, kept * size))),
        heads=draw(st.integers(1, 5)),
    )
    traces = []
    for seed in range(draw(st.integers(1, 3))):
        trace = random_trace(run, draw(st.integers(1, 30)), seed=draw(st.integers(0, 2**32)) + seed)
        if draw(st.booleans()):
            trace = with_text(trace, draw(st.lists(st.text(max_size=4), min_size=1)))
        left_out = draw(st.sets(st.sampled_from(["routing", "router_logits", "heads"])))
        traces.append(replace(trace, **dict.fromkeys(left_out)))
    return run, traces


def with_text(trace, pieces):
    """The trace with other texts for its tokens."""
    count = len(trace.tokens.text)
    text = [pieces[i % len(pieces)] for i in range(count)]
    end = np.cumsum([len(piece) for piece in text]).astype(np.int32)
    start = np.concatenate([[0], end[:-1]]).astype(np.int32)
    tokens = replace(trace.tokens, text=text, start=start, end=end)
    return replace(trace, tokens=tokens, text="".join(text))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(records())
def test_any_record_comes_back(tmp_path_factory, case):
    run, traces = case
    path = tmp_path_factory.mktemp("store")
    _, ids = write(path, run, traces)
    with Store(path) as store:
        for trace_id, record in zip(ids, traces, strict=True):
            assert_same(store.trace(trace_id), record, run)


def test_traces_longer_than_a_row_group_come_back(tmp_path):
    run = random_run(layers=6, dense=1, experts=8, groups=2, groups_kept=1, k=2, heads=1)
    many, few = LOGITS_GROUP.rows, ROUTING_GROUP.positions
    lengths = (1, many // 2, many, many + 1, 3 * few + 5)
    traces = [random_trace(run, tokens, seed=i) for i, tokens in enumerate(lengths)]
    write(tmp_path, run, traces)
    with Store(tmp_path) as store:
        for trace_id, record in enumerate(traces, start=1):
            assert_same(store.trace(trace_id), record, run)
    sizes = {"router_logits": LOGITS_GROUP, "routing": ROUTING_GROUP, "heads": HEADS_GROUP}
    for table, size in sizes.items():
        (file,) = tmp_path.glob(f"{table}/*/*.parquet")
        metadata = pq.read_metadata(file)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        spans = [group.column(2).statistics for group in groups]
        assert max(group.num_rows for group in groups) == size.rows
        assert max(span.max - span.min + 1 for span in spans) == size.positions
        assert groups[0].num_rows == (6 if table == "heads" else 5)  # whole layers where they fit


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_large_tables_come_back_from_several_files(tmp_path, monkeypatch, workers):
    """Workers share the layers of a table; no more than there are layers, few for a small one."""
    monkeypatch.setattr(encoders, "SHARE_NS", 8000)
    run = random_run(layers=4, dense=1, experts=16)
    traces = [random_trace(run, tokens, seed=tokens) for tokens in (1, 60, 30)]
    traces[2] = replace(traces[2], heads=cut_layers(traces[2].heads, 2))
    with StoreWriter(tmp_path, encoding=InThreads(workers)) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(run)
        writer.commit(run_id, traces)
        logits, heads = (len(store.files(name)) for name in ("router_logits", "heads"))
        assert (logits, heads) == (min(workers, 2), min(workers, 4))  # 17 and 49 microseconds
        for trace_id, record in enumerate(traces[:2], start=1):
            assert_same(store.trace(trace_id), record, run)
        assert store.trace(3).layers("heads") == [0, 1]
        for table in ("routing", "router_logits", "heads"):
            keys = store.sql(f"select trace_id, layer, pos from {table}").fetchall()
            assert len(keys) == len(set(keys))


def cut_layers(heads, count):
    """The first layers of head statistics."""
    return HeadArrays(heads.layers[:count], *(getattr(heads, name)[:count] for name in HEADS))


def test_arrays_in_any_memory_order_come_back(tmp_path):
    run = random_run()
    trace = random_trace(run, LOGITS_GROUP.rows // 2 + 1)
    logits = np.asfortranarray(trace.router_logits)
    routing = replace(
        trace.routing,
        expert_ids=np.asfortranarray(trace.routing.expert_ids),
        bias_flips=np.asfortranarray(trace.routing.bias_flips),
    )
    write(tmp_path, run, [replace(trace, router_logits=logits, routing=routing)])
    with Store(tmp_path) as store:
        assert_same(store.trace(1), trace, run)


def test_run_and_expert_facts_come_back(tmp_path):
    run = random_run(parallel={"tensor": 4}, revision="abc")
    run_id, _ = write(tmp_path, run, [random_trace(run)])
    with Store(tmp_path) as store:
        (row,) = store.runs().to_arrow_table().to_pylist()
        for name in ("mode", "model", "revision", "experts", "groups", "routed_scaling_factor"):
            assert row[name] == getattr(run, name)
        assert row["run_id"] == run_id
        assert tuple(row["sparse_layers"]) == run.sparse_layers
        assert json.loads(row["parallel"]) == {"tensor": 4}
        assert row["started"] < row["finished"]
        assert store.runs().fetchall()  # needs no time-zone library
        query = 'select layer, expert, "group", bias from experts order by all'
        experts = store.sql(query).fetchall()
    assert len(experts) == len(run.sparse_layers) * run.experts
    for layer, expert, group, bias in experts:
        assert group == expert // (run.experts // run.groups)
        assert bias == run.expert_bias[run.sparse_layers.index(layer), expert]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    run = random_run()
    traces = [random_trace(run, 20 + i, seed=i) for i in range(5)]
    write(path, run, traces)
    return path, run, traces


def test_plain_duckdb_reads_the_same_values(stored):
    path, _, traces = stored
    plain = duckdb.connect()
    with Store(path) as store:
        for table in ("traces", "tokens", "routing", "router_logits", "heads", "experts"):
            columns = ", ".join(f'"{name}"' for name in store.sql(f"from {table}").columns)
            query = f"select {columns} from {{}} order by all"
            theirs = plain.sql(query.format(f"read_parquet('{path}/{table}/*/*.parquet')"))
            ours = store.sql(query.format(table))
            found = theirs.to_arrow_table()  # with ids of experts as the files have them
            assert ours.to_arrow_table().cast(found.schema).equals(found)
            assert len(ours) > 0
    logits = plain.sql(
        f"select logits from read_parquet('{path}/router_logits/*/*.parquet')"
        " where trace_id = 2 and layer = 3 order by pos"
    ).fetchall()
    np.testing.assert_array_equal([row[0] for row in logits], traces[1].router_logits[2])


def test_plain_pyarrow_reads_the_same_values(stored):
    path, _, traces = stored
    routing = ds.dataset(path / "routing", format="parquet", partitioning="hive").to_table(
        filter=(ds.field("trace_id") == 4) & (ds.field("layer") == 1)
    )
    assert routing["pos"].to_pylist() == list(range(23))
    assert routing["expert_ids"].to_pylist() == traces[3].routing.expert_ids[0].tolist()
    assert routing["weights"].to_pylist() == traces[3].routing.weights[0].tolist()
    tokens = pq.read_table(path / "tokens").filter(pa.compute.field("trace_id") == 4)
    assert tokens["text"].to_pylist() == traces[3].tokens.text
    assert tokens["logprob"].to_pylist()[0] is None


def test_files_have_the_schema_and_sorted_keys(stored):
    path, run, _ = stored
    for table in tables(run.experts):
        for file in path.glob(f"{table.name}/*/*.parquet"):
            found = pq.read_table(pa.BufferReader(file.read_bytes()))
            assert found.schema.equals(table.arrow)
            keys = list(zip(*(found[name].to_pylist() for name in table.key), strict=True))
            assert keys == sorted(set(keys))


@pytest.mark.parametrize(("experts", "arrow"), [(256, pa.uint8()), (264, pa.uint16())])
def test_expert_ids_take_the_smallest_type(tmp_path, experts, arrow):
    run = random_run(experts=experts)
    write(tmp_path, run, [random_trace(run)])
    (file,) = tmp_path.glob("routing/*/*.parquet")
    assert pq.read_schema(file).field("expert_ids").type.value_type == arrow


@pytest.mark.parametrize("experts", [(16,), (320,), (16, 320), ()])
def test_ids_of_experts_have_one_type_in_all_tables_and_views(tmp_path, experts):
    with StoreWriter(tmp_path) as writer:
        for run in (random_run(experts=each) for each in experts):
            writer.commit(writer.start_run(run), [random_trace(run)])
    with Store(tmp_path) as store:
        columns = store.sql(
            "select table_name, column_name, data_type from duckdb_columns() where not internal"
            " and column_name in ('expert', 'expert_ids', 'own_ids', 'bias_flips', 'group_flips')"
        ).fetchall()
        ids = {(t, c): kind for t, c, kind in columns if not t.startswith(("usage", "expert_us"))}
        ids |= {(t, c): kind for t, c, kind in columns if c == "expert"}
        assert len(ids) == 10
        assert {kind.removesuffix("[]") for kind in ids.values()} == {"USMALLINT"}
        if experts:
            assert store.trace(1).routing(1)["expert_ids"].dtype == "uint16"
        store.sql("select * from router_choices join experts using (layer, expert)").fetchall()


def test_models_of_different_size_share_a_store(tmp_path):
    small, large = random_run(experts=16), random_run(experts=320, k=8)
    with StoreWriter(tmp_path) as writer:
        for run in (small, large, small):
            writer.commit(writer.start_run(run), [random_trace(run, seed=run.experts)])
    with Store(tmp_path) as store:
        for trace_id, run in enumerate((small, large, small), start=1):
            assert_same(store.trace(trace_id), random_trace(run, seed=run.experts), run)
        query = "select max(expert) from router_choices group by trace_id order by trace_id"
        assert [n > 16 for (n,) in store.sql(query).fetchall()] == [False, True, False]


def test_columns_are_encoded_as_measured_best(stored):
    path, _, _ = stored
    (file,) = path.glob("routing/*/*.parquet")
    group = pq.read_metadata(file).row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    for name in ("weights.list.element", "affinities.list.element", "margin", "entropy"):
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert columns[name].statistics is None
    assert "RLE_DICTIONARY" in columns["expert_ids.list.element"].encodings
    assert "DELTA_BINARY_PACKED" in columns["pos"].encodings
    for name in ("trace_id", "layer", "pos"):
        assert columns[name].statistics.has_min_max
    assert {column.compression for column in columns.values()} == {"ZSTD"}
