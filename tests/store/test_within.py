"""Rows of some traces, layers and positions are those that SQL gives."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from compacted import run_compact
from hypothesis import given
from hypothesis import strategies as st
from records import part, random_run
from workers import rich_trace

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.read.within import within

RUN = random_run()
LENGTHS = (300, 40, 2300)
TABLES = ("routing", "heads", "router_logits")


def make(path):
    """Traces in three parts each, of which the next trace's stand in between."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        traces = [rich_trace(length, length) for length in LENGTHS]
        ids = [None] * len(traces)
        for share in itertools.pairwise((0, 1 / 3, 2 / 3, 1)):
            for at, (trace, length) in enumerate(zip(traces, LENGTHS, strict=True)):
                begin, end = (round(length * bound) for bound in share)
                (ids[at],) = writer.commit(run_id, [part(trace, begin, end, ids[at])])
        writer.finish_run(run_id)
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One as it was written, one compacted."""
    home = tmp_path_factory.mktemp("stores")
    made, packed = make(home / "made"), make(home / "packed")
    run_compact(packed)
    with Store(made) as first, Store(packed) as second:
        yield {"made": first, "packed": second}


def table_of(store, name):
    return next(table for table in store.tables() if table.name == name)


def rows_of(found):
    return found.sort_by([(name, "ascending") for name in ("trace_id", "layer", "pos")]).to_pylist()


def read(store, table, ranges, columns):
    return within(store, table, store.files(table.name), ranges, columns)


@given(
    which=st.sampled_from(["made", "packed"]),
    name=st.sampled_from(TABLES),
    trace_id=st.integers(1, 4),
    layer=st.integers(0, 6),
    first=st.integers(0, 2400),
    length=st.integers(0, 2400),
    by=st.sets(st.sampled_from(["trace_id", "layer", "pos"])),
)
def test_rows_are_those_of_sql(stores, which, name, trace_id, layer, first, length, by):
    store = stores[which]
    table = table_of(store, name)
    columns = table.arrow.names
    every = {
        "trace_id": (trace_id, trace_id),
        "layer": (layer, layer + 1),
        "pos": (first, first + length),
    }
    ranges = {column: every[column] for column in sorted(by)}
    found = read(store, table, ranges, columns)
    assert found.schema.equals(pa.schema([table.arrow.field(column) for column in columns]))
    names = ", ".join(f'"{column}"' for column in columns)
    where = " and ".join(f"{column} between {a} and {b}" for column, (a, b) in ranges.items())
    told = store.sql(f"select {names} from {name} where {where or 'true'}").to_arrow_table()
    assert str(rows_of(found)) == str(rows_of(told))  # not a number is equal to itself there


def test_columns_that_a_file_lacks_are_null(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.setattr(Store, "require_files", lambda *_: None)  # an older file has its own size
    with Store(tmp_path) as store:
        for file in store.files("routing"):
            path = tmp_path / file.path
            rows = pq.read_table(path)
            pq.write_table(rows.drop_columns(["own_ids"]), path)
        table = table_of(store, "routing")
        found = read(
            store,
            table,
            {"trace_id": (1, 1), "pos": (90, 109)},
            ["layer", "pos", "own_ids", "entropy"],
        )
    assert found["own_ids"].null_count == len(found) == 20 * len(RUN.sparse_layers)
    assert not np.isnan(found["entropy"].to_numpy()).any()


def test_a_damaged_file_is_refused(tmp_path):
    make(tmp_path)
    with Store(tmp_path) as store:
        table = table_of(store, "routing")
        file = tmp_path / store.files("routing", 1, 1)[0].path
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
        with pytest.raises(StoreError, match=f"{file.name} is damaged"):
            read(store, table, {"pos": (0, 20)}, ["layer", "pos", "weights"])
