"""Choices without reasons, as servers report them: stored, read and queried beside full records."""

from dataclasses import replace

import numpy as np
import pytest
from records import random_run, random_trace

from ringlens.errors import NotInStoreError, ObservationError
from ringlens.store import ChoiceArrays, Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.check.verify import verify_choices
from ringlens.store.parallel.encoding import InThreads

RUN = random_run(mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan))


def served(first=0, missing=1, tokens=24, **changes):
    """A random trace of which only the choices are known, without some of the first and last."""
    full = random_trace(random_run(), tokens)
    ids = full.routing.expert_ids[:, first : tokens - missing, ::-1]
    choices = ChoiceArrays(full.routing.layers, ids, first)
    return replace(full, routing=choices, router_logits=None, heads=None, **changes)


def store_of(path, *traces):
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, traces)
        writer.finish_run(run_id)
    return Store(path)


@pytest.mark.parametrize(("first", "missing"), [(0, 1), (7, 1), (0, 0), (3, 5)])
def test_rows_are_there_where_the_server_gave_them_and_nowhere_else(tmp_path, first, missing):
    record = served(first, missing)
    with store_of(tmp_path, record) as store:
        for index, layer in enumerate(RUN.sparse_layers):
            routing = store.trace(1).routing(layer)
            assert routing["pos"].tolist() == list(range(first, 24 - missing))
            np.testing.assert_array_equal(routing["expert_ids"], record.routing.expert_ids[index])


def test_many_choices_are_shared_between_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("ringlens.store.encode.encoders.SHARE_NS", 1)
    record = served(first=3)
    with StoreWriter(tmp_path, encoding=InThreads(2)) as writer:
        writer.commit(writer.start_run(RUN), [record])
    with Store(tmp_path) as store:
        assert len(store.files("routing")) == 2
        for index, layer in enumerate(RUN.sparse_layers):
            found = store.trace(1).routing(layer)["expert_ids"]
            np.testing.assert_array_equal(found, record.routing.expert_ids[index])


def test_all_that_is_not_known_is_null(tmp_path):
    with store_of(tmp_path, served()) as store:
        routing = store.trace(1).routing(2)
        unknown = {name for name, value in routing.items() if value is None}
        assert unknown == {
            *("weights", "affinities", "margin", "group_margin", "entropy"),
            *("bias_flips", "group_flips"),
        }
        counts = "count(*), count(weight), count(affinity), count(bias_flip)"
        rows = store.sql(f"select {counts} from router_choices").fetchall()
        assert rows == [(3 * 23 * 3, 0, 0, 0)]
        assert store.sql("select count(*), count(bias) from experts").fetchall() == [(48, 0)]
        assert store.sql("select count(entropy) from routing").fetchall() == [(0,)]
        assert verify_choices(store).rows == 0
        assert check(store).findings == []
        with pytest.raises(NotInStoreError, match="router_logits"):
            store.trace(1).router_logits(1)


def test_full_and_imported_runs_stand_side_by_side(tmp_path):
    full_run = random_run()
    with StoreWriter(tmp_path) as writer:
        writer.commit(writer.start_run(full_run), [random_trace(full_run, seed=3)])
        writer.commit(writer.start_run(RUN), [served()])
    with Store(tmp_path) as store:
        query = "select trace_id, count(weight) from router_choices group by all order by all"
        assert store.sql(query).fetchall() == [(1, 24 * 3 * 3), (2, 0)]
        assert store.trace(1).routing(1)["weights"].shape == (24, 3)
        assert verify_choices(store).differ == 0
        assert check(store).findings == []


def test_a_trace_may_have_no_rows_at_all(tmp_path):
    with store_of(tmp_path, served(0, 24)) as store:
        assert store.sql("select count(*) from routing").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (ChoiceArrays((1, 2, 3), np.zeros((3, 25, 3), int)), "positions 0 to 24"),
        (ChoiceArrays((1, 2, 3), np.zeros((3, 20, 3), int), 5), "positions 5 to 24"),
        (ChoiceArrays((1, 2, 3), np.zeros((3, 20, 3), int), -1), "positions -1"),
        (ChoiceArrays((0, 1, 2), np.zeros((3, 20, 3), int)), r"routing\.layers is \(0, 1, 2\)"),
        (ChoiceArrays((1, 2, 3), np.zeros((3, 20, 4), int)), r"expert_ids is \(3, 20, 4\)"),
        (ChoiceArrays((1, 2, 3), np.full((3, 20, 3), 16)), "expert id 16"),
    ],
)
def test_what_does_not_fit_the_trace_is_refused(tmp_path, choices, message):
    with pytest.raises(ObservationError, match=message):
        store_of(tmp_path, replace(served(), routing=choices))
    with Store(tmp_path) as store:
        assert store.traces().fetchall() == []
