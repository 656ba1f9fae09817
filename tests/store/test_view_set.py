"""Views are made when a query names them: in whatever way it does, and of one commit all."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from records import random_run, random_trace
from small_store import small_store

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from tokens",
        'select count(*) from "Tokens"',
        "select count(*) from main.TOKENS",
        "with t as (from tokens) select count(*) from t",
        "select (select count(*) from tokens)",
        "select count(*) from query('from tok' || 'ens')",
        "select count(*) from query_table('to' || 'kens')",
        "select count(*) from token_context",
        "select count(*) from /* trace_summary */ tokens",
    ],
)
def test_a_view_is_there_however_it_is_named(store, query):
    assert store.sql(query).fetchall() == [(180,)]


@pytest.mark.parametrize("name", ["router_choices", "expert_usage", "trace_summary"])
def test_a_view_over_others_is_the_first_that_is_asked_for(store, name):
    assert store.sql(f"from {name}").fetchall()


@pytest.mark.parametrize(
    "query", ["show tables", "select table_name from information_schema.tables where true"]
)
def test_lists_have_all_views(store, query):
    names = {row[0] for row in store.sql(query).fetchall()}
    assert names >= {"runs", "tokens", "routing", "router_choices", "token_context"}
    assert names == set(store._ipython_key_completions_())


def test_what_is_built_on_a_relation_may_name_further_views(store):
    tokens = store.sql("from traces").filter("trace_id in (select trace_id from heads)")
    assert len(tokens.fetchall()) == 3
    joined = store.sql("from runs").query("found", "select count(*) from found, expert_usage")
    assert joined.fetchall()[0][0] > 0


def test_what_is_not_there_is_said_as_ever(store):
    with pytest.raises(StoreError, match="tokens"):
        store.sql("from tokns")
    with pytest.raises(StoreError):
        store.sql("from runs").query("found", "from nothing")


def test_views_that_exist_are_of_one_commit(tmp_path):
    """Threads that name other views between commits see as many traces as routed traces."""
    run = random_run(record=("routing",))
    query = """select (select count(*) from traces), (select count(distinct trace_id) from routing),
                      (select count(distinct trace_id) from tokens)"""
    seen, done = set(), threading.Event()
    with StoreWriter(tmp_path / "s") as writer, ThreadPoolExecutor(3) as pool:
        run_id = writer.start_run(run)
        writer.commit(run_id, [random_trace(run, 20, seed=0)])
        with Store(tmp_path / "s") as store:

            def ask(*texts):
                while not done.is_set():
                    for text in texts:
                        rows = store.sql(text).fetchall()
                        if text == query:
                            seen.update(rows)

            asking = [
                pool.submit(ask, query),
                pool.submit(ask, "from traces"),
                pool.submit(ask, "select count(*) from tokens", "show tables"),
            ]
            for seed in range(1, 12):
                writer.commit(run_id, [random_trace(run, 20, seed=seed)])
                store.sql("select count(*) from runs").fetchall()
            done.set()
            for asked in asking:
                asked.result()
            last = store.sql(query).fetchall()
    assert last == [(12, 12, 12)]
    assert all(len(set(row)) == 1 for row in seen)


def test_a_store_opens_without_any_view(store):
    def made():
        return store._connection.sql(
            "select view_name from duckdb_views() where not internal"
        ).fetchall()

    assert made() == []
    store.sql("select count(*) from steps").fetchall()
    assert made() == [("steps",)]
