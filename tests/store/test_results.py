"""What `Store.sql` gives: rows for DuckDB, pandas, Arrow, polars and numpy; errors on each path."""

import threading
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from small_store import small_store

from ringlens.errors import StoreError
from ringlens.store import Store
from ringlens.store.read.relation import Relation


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(small_store(tmp_path_factory.mktemp("stores") / "store")) as store:
        yield store


QUERY = "select trace_id, pos, text, logprob from tokens where trace_id = 2 order by pos"


def test_pandas(store):
    frame = store.sql(QUERY).df()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["trace_id", "pos", "text", "logprob"]
    assert frame["trace_id"].dtype == np.int64
    assert frame["pos"].dtype == np.int32
    assert frame["logprob"].dtype == np.float32
    assert np.isnan(frame["logprob"][0])  # null at position 0
    rows = store.sql(QUERY).fetchall()
    assert frame["text"].tolist() == [row[2] for row in rows]


def test_arrow_in_one_piece_and_in_batches(store):
    table = store.sql(QUERY).to_arrow_table()
    assert table.schema.field("trace_id").type == pa.int64()
    assert table.schema.field("logprob").type == pa.float32()
    assert table["logprob"].null_count == 1
    reader = store.sql(QUERY).to_arrow_reader(batch_size=7)
    assert reader.read_all().equals(table)
    assert pa.table(store.sql(QUERY)).equals(table)  # through Arrow's C interface


def test_polars(store):
    frame = store.sql(QUERY).pl()
    assert isinstance(frame, pl.DataFrame)
    assert frame.schema["logprob"] == pl.Float32
    assert frame["text"].to_list() == store.sql(QUERY).to_arrow_table()["text"].to_pylist()
    assert frame["logprob"].null_count() == 1
    lists = store.sql("select expert_ids from routing order by all limit 5").pl()
    assert lists.schema["expert_ids"] == pl.List(pl.UInt16)  # one type for ids, however stored


def test_numpy(store):
    found = store.sql("select pos, entropy from tokens where pos > 0 order by all").fetchnumpy()
    assert found["pos"].dtype == np.int32
    assert found["entropy"].dtype == np.float32
    assert isinstance(found["entropy"], np.ndarray)
    masked = store.sql(QUERY).fetchnumpy()["logprob"]
    assert masked.mask.tolist() == [True] + [False] * 59


def test_parameters_by_place_and_by_name(store):
    by_place = store.sql("select count(*) from tokens where trace_id = ? and pos < ?", [2, 10])
    assert by_place.fetchall() == [(10,)]
    query = "select count(*) from tokens where trace_id = $trace and pos < $pos and $pos > 1"
    assert store.sql(query, {"trace": 2, "pos": 10}).fetchall() == [(10,)]
    hostile = "' or true --"
    assert store.sql("select count(*) from traces where task = ?", [hostile]).fetchall() == [(0,)]
    listed = store.sql("select count(*) from tokens where trace_id in $ids", {"ids": [1, 3]})
    assert listed.fetchall() == [(120,)]
    assert store.sql("select $v::varchar as v", {"v": None}).df()["v"].isna().all()


def test_relations_go_on_in_duckdb(store):
    relation = store.sql("from tokens").filter("trace_id = 2").order("pos").limit(3)
    assert isinstance(relation, Relation)
    assert relation.project("pos").fetchall() == [(0,), (1,), (2,)]
    assert relation.columns[:2] == ["trace_id", "pos"]
    assert len(relation) == 3
    assert relation.aggregate("max(pos) as m").fetchall() == [(2,)]
    assert relation["pos"].fetchall() == [(0,), (1,), (2,)]


LATE = "select case when pos > 50 then error('too late') else pos end as p from tokens"

READERS = {
    "fetchall": lambda relation: relation.fetchall(),
    "df": lambda relation: relation.df(),
    "arrow": lambda relation: relation.to_arrow_table(),
    "batches": lambda relation: relation.to_arrow_reader(16).read_all(),
    "polars": lambda relation: relation.pl(),
    "numpy": lambda relation: relation.fetchnumpy(),
    "print": str,
    "show": lambda relation: relation.show(),
    "filter": lambda relation: relation.filter("p >= 0").fetchall(),
    "stream": pa.table,
}


@pytest.mark.parametrize("how", READERS)
def test_a_query_that_fails_late_is_a_sentence_on_every_path(store, how):
    with pytest.raises(StoreError, match="too late"):
        READERS[how](store.sql(LATE))
    assert store.sql("select 1").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("query", "params", "says"),
    [
        ("select nope from tokens", None, "The columns are: tokens: trace_id, pos"),
        ("from nowhere", None, "there is no table nowhere"),
        ("selec 1", None, "syntax error"),
        ("", None, "the query is empty"),
        ("select ?", [1, 2], "parameters"),
        ("select $a", {"b": 1}, "parameter"),
    ],
)
def test_a_wrong_query_is_a_sentence(store, query, params, says):
    with pytest.raises(StoreError, match=says):
        store.sql(query, params)


@pytest.mark.parametrize("call", ["filter", "order", "project", "aggregate"])
def test_a_wrong_step_is_a_sentence(store, call):
    with pytest.raises(StoreError, match="nope"):
        getattr(store.sql("from tokens"), call)("nope")
    with pytest.raises(StoreError, match="nope"):
        store.sql("from tokens")["nope"]


def test_a_query_is_stopped_from_another_thread(store):
    relation = store.sql("select count(*) from range(1000000000000000)")
    said = []

    def ask():
        try:
            relation.fetchall()
        except StoreError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    end = time.monotonic() + 300
    while thread.is_alive() and time.monotonic() < end:
        relation.interrupt()
        thread.join(0.1)
    assert "Interrupted" in said[0]
    assert store.sql("select 1").fetchall() == [(1,)]
