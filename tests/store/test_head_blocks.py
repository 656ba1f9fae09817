"""Head statistics by blocks: what the statistics of each token give, however commits cut them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import part, random_run, random_trace

from ringlens.errors import NotInStoreError, ObservationError
from ringlens.store import Store, StoreWriter
from ringlens.store.parallel.encoding import InThreads
from ringlens.store.schema import captured
from ringlens.store.schema.recorded_tables import HEAD_BLOCKS, HEAD_STATISTICS

RUN = random_run(layers=3, heads=3, experts=8, groups=2, groups_kept=1, k=2)


def expected(heads, layer):
    """Blocks of a layer, computed in the plainest way."""
    tokens = heads.entropy.shape[1]
    spans = [slice(i, min(i + 64, tokens)) for i in range(0, tokens, 64)]
    found = {"pos": [span.start for span in spans], "n": [s.stop - s.start for s in spans]}
    for name in HEAD_STATISTICS:
        values_TH = getattr(heads, name)[layer].astype(np.float64)
        found[f"{name}_mean"] = [values_TH[span].mean(0) for span in spans]
        found[f"{name}_max"] = [values_TH[span].max(0) for span in spans]
    return {name: np.array(values) for name, values in found.items()}


def assert_blocks(trace, heads, layers=range(3)):
    for layer in layers:
        found, wanted = trace.head_blocks(layer), expected(heads, layer)
        assert set(found) == set(wanted)
        for name, values in found.items():
            if name.endswith("_mean"):
                # The row of a part is rounded to float32, and so is what is made of several.
                np.testing.assert_allclose(values, wanted[name], rtol=2.5e-7, atol=1e-30)
            else:
                np.testing.assert_array_equal(values, wanted[name])


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 300), st.sets(st.integers(1, 299), max_size=6), st.booleans(), st.integers(1, 3)
)
def test_blocks_cut_by_commits_become_whole(tmp_path_factory, tokens, cuts, whole, workers):
    """Of traces of any length, with heads or without, read also while they run."""
    trace = random_trace(RUN, tokens, router_logits=None)
    heads = trace.heads
    if not whole:
        trace = replace(trace, heads=None)
    edges = [0, *sorted(cut for cut in cuts if cut < tokens), tokens]
    trace_id = None
    path = tmp_path_factory.mktemp("store")
    with StoreWriter(path, encoding=InThreads(workers)) as writer, Store(path) as store:
        run_id = writer.start_run(RUN)
        for start, stop in pairwise(edges):
            record = part(trace, start, stop, trace_id)
            if not whole:
                record = replace(record, head_blocks=cut(heads, start, stop))
            (trace_id,) = writer.commit(run_id, [record])
            assert_blocks(store.trace(trace_id), cut(heads, 0, stop))
        rows = store.sql("select layer, sum(n) from head_blocks group by all order by 1").fetchall()
        assert rows == [(layer, tokens) for layer in range(3)]
        assert len(store.sql("from heads")) == (3 * tokens if whole else 0)


def cut(heads, start, stop):
    values = {name: getattr(heads, name)[:, start:stop] for name in HEAD_STATISTICS}
    return replace(heads, **values)


def test_a_row_is_found_by_its_key_and_blocks_add_up_in_sql(tmp_path):
    trace = random_trace(RUN, 200, router_logits=None)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(trace, 0, 70, None)])
        writer.commit(run_id, [part(trace, 70, 200, trace_id)])
        key = ", ".join(HEAD_BLOCKS.key)
        keys = store.sql(f"select {key} from head_blocks").fetchall()
        assert len(set(keys)) == len(keys) == 3 * 5  # positions 0, 64, 70, 128, 192
        query = """
            select pos // 64, sum(n * entropy_mean[2]) / sum(n), max(entropy_max[2])
            from head_blocks where layer = 1 group by all order by 1
        """
        rows = store.sql(query).fetchall()
    wanted = expected(trace.heads, 1)
    np.testing.assert_allclose([row[1] for row in rows], wanted["entropy_mean"][:, 1], rtol=1e-6)
    np.testing.assert_array_equal([row[2] for row in rows], wanted["entropy_max"][:, 1])


def test_blocks_of_traces_without_them_are_made_of_heads(tmp_path, monkeypatch):
    """Of stores that were written before there were blocks, also where such a trace goes on."""
    trace = random_trace(RUN, 150, router_logits=None)
    old = [table for table in captured.tables(RUN.experts) if table.name != "head_blocks"]
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        with monkeypatch.context() as before:
            before.setattr("ringlens.store.schema.captured.tables", lambda experts=256: old)
            (trace_id,) = writer.commit(run_id, [part(trace, 0, 100, None)])
        assert_blocks(store.trace(trace_id), cut(trace.heads, 0, 100))
        writer.commit(run_id, [part(trace, 100, 150, trace_id)])
        assert len(store.sql("from head_blocks")) == 3 * 2
        assert_blocks(store.trace(trace_id), trace.heads)


def test_what_was_not_recorded_is_said(tmp_path):
    trace = random_trace(RUN, 20)
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [replace(trace, heads=None), trace])
        with pytest.raises(NotInStoreError, match=r"replay the trace with .*head_blocks"):
            store.trace(1).head_blocks(0)
        with pytest.raises(NotInStoreError, match=r"head_blocks has no layer 7 .* it has 0, 1, 2"):
            store.trace(2).head_blocks(7)
        with pytest.raises(ObservationError, match="leave head_blocks out"):
            writer.commit(run_id, [replace(trace, head_blocks=trace.heads)])
        wrong = replace(trace, heads=None, head_blocks=cut(trace.heads, 0, 3))
        with pytest.raises(ObservationError, match=r"head_blocks\.entropy is \(3, 3, 3\)"):
            writer.commit(run_id, [wrong])
