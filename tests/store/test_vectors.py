"""Vectors and top attention: what is recorded comes back in one call."""

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from records import part, random_attention, random_run, random_trace, random_vectors

from ringlens.errors import NotInStoreError, ObservationError, StoreError
from ringlens.store import Store, StoreWriter, VectorArrays
from ringlens.store.encode.vectors import GROUP_VALUES, round11

RUN = random_run()
RNG = np.random.default_rng(0)
POS = (0, 3, 11, 12, 23)
RESIDUAL = random_vectors(RNG, "residual", (0, 2, 3), POS)
OUTPUT = random_vectors(RNG, "head_output", (1, 2), POS[1:], heads=(0, 3), width=3)
EMBEDDING = random_vectors(RNG, "embedding", (), POS)
TOP = random_attention(RNG, (0, 3), (1, 2), POS)
TRACE = random_trace(RUN, vectors=(RESIDUAL, OUTPUT, EMBEDDING), attention=TOP)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Trace 1 at once, trace 2 in parts, trace 3 without vectors."""
    path = tmp_path_factory.mktemp("store")
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [TRACE, part(TRACE, 0, 12, None), random_trace(RUN, seed=3)])
        writer.commit(run_id, [part(TRACE, 12, 24, 2)])
    return path


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store


@pytest.mark.parametrize("trace_id", [1, 2])
def test_vectors_come_back(store, trace_id):
    trace = store.trace(trace_id)
    for index, layer in enumerate(RESIDUAL.layers):
        pos, values, heads = trace.vectors("residual", layer)
        np.testing.assert_array_equal(pos, POS)
        np.testing.assert_array_equal(values, RESIDUAL.values[index])
        assert (values.dtype, heads) == (np.float32, None)
    both = trace.vectors("residual", layers=[3, 0])
    np.testing.assert_array_equal(both.values, RESIDUAL.values[[2, 0]])
    np.testing.assert_array_equal(trace.vectors("embedding").values, EMBEDDING.values[0])


@pytest.mark.parametrize("trace_id", [1, 2])
def test_vectors_of_heads_come_back(store, trace_id):
    trace = store.trace(trace_id)
    found = trace.vectors("head_output", 2)
    assert found.heads == (0, 3)
    np.testing.assert_array_equal(found.pos, POS[1:])
    np.testing.assert_array_equal(found.values, OUTPUT.values[1])
    one = trace.vectors("head_output", 1, head=3)
    np.testing.assert_array_equal(one.values, OUTPUT.values[0, :, 1])
    layers = trace.vectors("head_output", layers=[1, 2])
    np.testing.assert_array_equal(layers.values, OUTPUT.values)


@pytest.mark.parametrize("trace_id", [1, 2])
def test_attention_comes_back(store, trace_id):
    trace = store.trace(trace_id)
    for i, layer in enumerate(TOP.layers):
        for j, head in enumerate(TOP.heads):
            pos, positions, weights = trace.attention(layer, head)
            np.testing.assert_array_equal(pos, POS)
            np.testing.assert_array_equal(positions, TOP.positions[i, :, j])
            np.testing.assert_array_equal(weights, TOP.weights[i, :, j])
    rows = store.sql("select count(*) from attention where list_contains(positions, -1)")
    assert rows.fetchall() == [(0,)]


def test_what_was_not_recorded_is_said(store):
    trace = store.trace(1)
    for arguments, sentence in (
        (("mlp", 1), r"'mlp' of layer 1 were not recorded .*embedding, head_output/1/0, .*"),
        (("residual", 1), r"'residual' of layer 1 were not .*residual/0, residual/2, residual/3"),
        (("residual",), "'residual' outside the layers were not recorded for trace 1"),
        (("head_output", 1, 2), "of layer 1, head 2, were not recorded"),
    ):
        with pytest.raises(NotInStoreError, match=sentence):
            trace.vectors(*arguments)
    with pytest.raises(NotInStoreError, match=r"layer 0, head 0 .*attention has 0/1, 0/2, 3/1"):
        trace.attention(0, 0)
    with pytest.raises(NotInStoreError, match="its run recorded no activations"):
        store.trace(3).vectors("residual", 0)
    with pytest.raises(StoreError, match="at least one"):
        trace.vectors("residual", layers=[])


def test_layers_at_different_positions_are_asked_for_one_by_one(tmp_path):
    first = random_vectors(RNG, "residual", (0,), (1, 2))
    second = random_vectors(RNG, "residual", (1,), (1, 3))
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        writer.commit(writer.start_run(RUN), [random_trace(RUN, vectors=(first, second))])
        trace = store.trace(1)
        assert trace.vectors("residual", 1).pos.tolist() == [1, 3]
        with pytest.raises(StoreError, match="layers 0 and 1 were recorded at different positions"):
            trace.vectors("residual", layers=[0, 1])


def test_files_are_sorted_over_traces_and_plain_duckdb_reads_them(path):
    for table, key in (
        ("activations", "point, layer, head, trace_id, pos"),
        ("attention", "layer, head, trace_id, pos"),
    ):
        for file in path.glob(f"{table}/*/*.parquet"):
            query = f"select {key} from read_parquet('{file}')"
            rows = duckdb.sql(query).fetchall()
            ordered = duckdb.sql(f"{query} order by {key.replace(',', ' nulls first,')}")
            assert rows == ordered.fetchall()
            assert len(set(rows)) == len(rows) > 0


def test_row_groups_are_bounded(tmp_path):
    run = random_run()
    width = 4096
    rows = 2 * GROUP_VALUES // width + 100
    vectors = random_vectors(RNG, "residual", (0, 1), range(rows), width=width)
    small = random_vectors(RNG, "small", (0, 1, 2), range(5), heads=(0, 1))
    trace = random_trace(run, rows, vectors=(vectors, small), router_logits=None, heads=None)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        writer.commit(writer.start_run(run), [trace])
        np.testing.assert_array_equal(
            store.trace(1).vectors("residual", 1).values, vectors.values[1]
        )
        np.testing.assert_array_equal(store.trace(1).vectors("small", 2).values, small.values[2])
    (file,) = tmp_path.glob("activations/*/*.parquet")
    metadata = pq.read_metadata(file)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert max(sizes) * width <= GROUP_VALUES + 100 * width
    assert len(sizes) <= 6  # the small pieces lie together


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, 8, elements=st.floats(width=32)))
def test_vectors_keep_eleven_bits_of_any_float(values):
    rounded = round11(values)
    finite = np.isfinite(values) & (np.abs(values) < 3e38)
    normal = finite & (np.abs(values) > 2.0**-120)
    error = np.abs(rounded[normal].astype(float) - values[normal].astype(float))
    assert (error <= np.abs(values[normal].astype(float)) * 2.0**-11).all()
    in_half = normal & (np.abs(values) < 65504) & (np.abs(values) >= 2.0**-14)
    np.testing.assert_array_equal(rounded[in_half], values[in_half].astype(np.float16))
    np.testing.assert_array_equal(rounded[~np.isfinite(values)], values[~np.isfinite(values)])


def changed(**changes):
    return replace(TRACE, vectors=(replace(RESIDUAL, **changes),))


@pytest.mark.parametrize(
    ("trace", "sentence"),
    [
        (changed(layers=(0, 2)), r"values is \(3, 5, 6\) where the run has \(2, 5, 6\)"),
        (changed(layers=(0, 2, 9)), r"layers is \(0, 2, 9\): give some of \(0, 1, 2, 3\)"),
        (changed(layers=(2, 0, 3)), "each once and ascending"),
        (changed(heads=(1,)), r"values is \(3, 5, 6\) where"),
        (changed(pos=np.array([0, 3, 11, 12, 24], np.int32)), "from 0 to 23, those that"),
        (changed(pos=np.array([0, 3, 3, 12, 13], np.int32)), "ascending positions"),
        (replace(TRACE, vectors=(RESIDUAL, RESIDUAL)), "'residual' are given twice"),
        (replace(TRACE, attention=replace(TOP, heads=(1, 7))), r"attention.heads is \(1, 7\)"),
        (
            replace(TRACE, attention=replace(TOP, weights=TOP.weights[..., :2])),
            r"attention.positions is \(2, 5, 2, 4\)",
        ),
        (
            replace(TRACE, attention=replace(TOP, positions=TOP.positions + 2)),
            "attention.positions goes from .* in a trace of 24 tokens",
        ),
        (replace(TRACE, attention=replace(TOP, positions=TOP.positions - 1)), "goes from -2 to"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, trace, sentence):
    with StoreWriter(tmp_path) as writer, pytest.raises(ObservationError, match=sentence):
        writer.commit(writer.start_run(RUN), [trace])


def test_a_record_may_hold_no_positions(tmp_path):
    """A block in which none of the chosen positions lie."""
    empty = VectorArrays("residual", (1,), None, np.empty(0, np.int32), np.empty((1, 0, 6), "f4"))
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        writer.commit(writer.start_run(RUN), [random_trace(RUN, vectors=(empty,))])
        assert store.files("activations") == []
