"""Router logits as indices into fp16's values: any reader gets every float to the last bit."""

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from records import part, random_run, random_trace
from same_rows import assert_same

from ringlens.store import Store, StoreWriter
from ringlens.store.check.verify import verify_choices
from ringlens.store.encode import half_file
from ringlens.store.encode.columns import fixed_lists, matrix
from ringlens.store.parallel.encoding import InThreads
from ringlens.store.read.damage import damage
from ringlens.store.schema.recorded_tables import ROUTER_LOGITS

ARROW = ROUTER_LOGITS.arrow
ALL_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def batch(logits_RE, trace_id=1):
    rows = len(logits_RE)
    columns = [
        pa.array(np.full(rows, trace_id, np.int64)),
        pa.array((np.arange(rows) % 3 + 70).astype(np.uint16)),
        pa.array(np.arange(rows, dtype=np.int32)),
        fixed_lists(np.ascontiguousarray(logits_RE, np.float32), ARROW.field("logits").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=ARROW)


def assert_read(path, batches):
    """pyarrow, DuckDB and Polars read the rows of the batches, bit for bit."""
    wanted = pa.Table.from_batches(batches)
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        ours = file.read()
        assert file.metadata.num_row_groups == len(batches)
    theirs = duckdb.sql(f"select * from read_parquet('{path}')").to_arrow_table()
    assert ours.schema.equals(ARROW)
    bits = matrix(wanted["logits"]).view(np.uint32)
    for found in (ours, theirs):
        for name in ("trace_id", "layer", "pos"):
            assert found[name].to_pylist() == wanted[name].to_pylist()
        np.testing.assert_array_equal(matrix(found["logits"]).view(np.uint32), bits)


FLOATS = st.one_of(
    st.floats(width=16),
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 2.0**-14, 2.0**-24, 2.0**-25, 65504.0, 65520.0, 1 + 2.0**-11]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 40), st.integers(1, 20), st.data())
def test_any_floats_come_back(tmp_path_factory, rows, width, data):
    path = tmp_path_factory.mktemp("half") / "file.parquet"
    rng = np.random.default_rng(rows)
    batches = []
    for trace_id in range(1, data.draw(st.integers(1, 3)) + 1):
        logits_RE = rng.normal(0, 2, (rows, width)).astype(np.float16).astype(np.float32)
        for value in data.draw(st.lists(FLOATS, max_size=6)):
            logits_RE[rng.integers(rows), rng.integers(width)] = value
        batches.append(batch(logits_RE, trace_id))
    assert half_file.write(path, ROUTER_LOGITS, batches) == sum(map(len, batches))
    assert_read(path, batches)


def test_every_value_of_fp16_is_its_own_index(tmp_path):
    """Also infinities and each NaN, and the pages of a row group larger than one."""
    logits_RE = np.resize(ALL_HALVES, (5_000, 256))
    half_RE, exact_R = half_file.halves(logits_RE)
    assert exact_R.all()
    np.testing.assert_array_equal(half_RE.reshape(-1)[: 2**16], np.arange(2**16))
    path = tmp_path / "file.parquet"
    half_file.write(path, ROUTER_LOGITS, [batch(logits_RE)])
    assert_read(path, [batch(logits_RE)])
    assert path.stat().st_size < 2.1 * logits_RE.size


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@example([0x38800000 - 1, 0x38800000, 0x477FE000, 0x477FE001, 0x47800000, 0x80000000])
def test_a_float_is_exact_where_numpy_says_so(bits):
    floats_RE = np.array(bits, np.uint32).view(np.float32)[:, None]
    half_RE, exact_R = half_file.halves(floats_RE)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = floats_RE.astype(np.float16)
        there_and_back = wanted.astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(exact_R, (there_and_back == floats_RE.view(np.uint32))[:, 0])
    np.testing.assert_array_equal(half_RE[exact_R], wanted.view(np.uint16)[exact_R])


def test_polars_reads_it(tmp_path):
    polars = pytest.importorskip("polars")
    logits_RE = np.random.default_rng(0).normal(0, 1, (300, 16)).astype(np.float16)
    logits_RE = logits_RE.astype(np.float32)
    logits_RE[[7, 200]] += 1e-5
    half_file.write(tmp_path / "file.parquet", ROUTER_LOGITS, [batch(logits_RE)])
    found = polars.read_parquet(tmp_path / "file.parquet")["logits"].to_list()
    np.testing.assert_array_equal(np.array(found, np.float32), logits_RE)


def test_row_groups_are_skipped_by_their_statistics(tmp_path):
    path = tmp_path / "file.parquet"
    logits_RE = np.zeros((30, 4), np.float32)
    half_file.write(path, ROUTER_LOGITS, [batch(logits_RE, i) for i in range(5)])
    metadata = pq.read_metadata(path)
    for trace_id in range(5):
        group = metadata.row_group(trace_id)
        ranges = [
            (group.column(i).statistics.min, group.column(i).statistics.max) for i in range(3)
        ]
        assert ranges == [(trace_id, trace_id), (70, 72), (0, 29)]
    query = f"explain analyze select sum(pos) from read_parquet('{path}') where trace_id = 3"
    assert "Row Groups Scanned: 1 / 5" in duckdb.sql(query).fetchall()[0][1]


@pytest.fixture(params=[1, 3])
def many(request, tmp_path, monkeypatch):
    """A store whose logits are written this way, in one file or three; its traces."""
    monkeypatch.setattr(half_file, "MIN_FLOATS", 1)
    monkeypatch.setattr("ringlens.store.encode.encoders.SHARE_NS", 1e4)
    run = random_run()
    traces = [random_trace(run, 90, seed=i) for i in range(2)]
    exact = traces[1].router_logits.copy()
    exact[:, 5] += np.float32(1e-6)
    traces[1] = replace(traces[1], router_logits=exact)
    with StoreWriter(tmp_path, encoding=InThreads(request.param)) as writer:
        run_id = writer.start_run(run)
        ids = writer.commit(run_id, [part(trace, 0, 50, None) for trace in traces])
        rest = [part(trace, 50, 90, i) for trace, i in zip(traces, ids, strict=True)]
        writer.commit(run_id, rest)
    with Store(tmp_path) as store:
        paths = [tmp_path / file.path for file in store.files("router_logits")]
        assert {pq.read_metadata(path).created_by for path in paths} == {"ringlens"}
        yield store, run, traces


def test_a_store_holds_the_same_whichever_way(many):
    store, run, traces = many
    files = store.files("router_logits")
    assert {pq.read_metadata(store.path / file.path).created_by for file in files} == {"ringlens"}
    for trace_id, record in enumerate(traces, start=1):
        assert_same(store.trace(trace_id), record, run)
    assert verify_choices(store).differ == 0


def test_a_flipped_bit_is_found(many):
    store, _, _ = many
    file = store.files("router_logits")[0]
    path = store.path / file.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "is damaged" in damage(store.folder, [file])
