"""Passes over whole tables: the same as DuckDB, wherever they run."""

import numpy as np
import pyarrow.compute as pc
import pytest
from records import random_run, random_trace

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain import scan
from ringlens.store.maintain.scan import expert_counts, scan_batches

RUNS = (random_run(seed=1), random_run(seed=2, layers=6, experts=320, groups=8, k=4))


@pytest.fixture
def store(tmp_path):
    """Two runs of different models, each in several files."""
    with StoreWriter(tmp_path) as writer:
        for run in RUNS:
            run_id = writer.start_run(run)
            for seed in range(3):
                writer.commit(run_id, [random_trace(run, 30 + seed, seed=seed)])
    with Store(tmp_path) as opened:
        yield opened


def by_sql(store, run_id=None):
    """The counts of `expert_counts`, by DuckDB."""
    counts_LE = np.zeros((6, 320) if run_id is None else (4, 16), np.int64)
    query = """
        select layer, expert, count(*) from router_choices join traces using (trace_id)
        where ? is null or run_id = ? group by all"""
    for layer, expert, n in store.sql(query, [run_id, run_id]).fetchall():
        counts_LE[layer, expert] = n
    return counts_LE


def test_expert_counts_are_those_of_sql(store, monkeypatch):
    np.testing.assert_array_equal(expert_counts(store), by_sql(store))
    first = store.runs().fetchall()[0][0]
    np.testing.assert_array_equal(expert_counts(store, run_id=first), by_sql(store, first))
    monkeypatch.setattr(scan, "SHARD_BYTES", 1)  # one file per shard
    monkeypatch.setattr(scan, "ROWS", 7)
    np.testing.assert_array_equal(expert_counts(store), by_sql(store))


def test_any_function_of_any_table(store):
    def longest(batch):
        return pc.max(pc.utf8_length(batch["text"])).as_py()

    found = scan_batches(store, "tokens", ["text"], longest, max)
    assert (found,) == store.sql("select max(length(text)) from tokens").fetchall()[0]
    assert scan_batches(store, "attention", ["pos"], longest, max) is None


def test_a_store_without_runs(tmp_path):
    StoreWriter(tmp_path).close()
    with Store(tmp_path) as store:
        assert expert_counts(store).shape == (0, 0)


def test_a_damaged_file_is_named(store):
    file = store.files("routing")[1]
    (store.path / file.path).write_bytes(b"not parquet")
    with pytest.raises(StoreError, match=file.path):
        expert_counts(store)
