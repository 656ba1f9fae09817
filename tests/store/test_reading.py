"""Store and Trace: queries, what is missing, what is damaged, and growing stores."""

import json
import shutil
import threading

import numpy as np
import pytest
from records import random_run, random_trace

from ringlens.errors import NotInStoreError, StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.verify import verify_choices


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two commits of three traces; the last trace has tokens only."""
    path = tmp_path_factory.mktemp("stores") / "store"
    run = random_run(record=("routing",))
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [random_trace(run, 200, seed=i) for i in range(3)])
        traces = [random_trace(run, 200, seed=i) for i in (3, 4)]
        bare = random_trace(run, 9, seed=5, routing=None, router_logits=None, heads=None)
        writer.commit(run_id, [*traces, bare])
    return path


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy")


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store


def test_sql_takes_parameters_by_place_and_by_name(store):
    query = "select count(*) from tokens where trace_id = {} and pos < {}"
    assert store.sql(query.format("?", "?"), [2, 7]).fetchall() == [(7,)]
    named = {"t": 2, "p": 7}
    assert store.sql(query.format("$t", "$p"), named).fetchall() == [(7,)]


def test_a_relation_goes_on_as_duckdb_relations_do(store):
    tokens = store.sql("from tokens").filter("trace_id = 1").limit(3)
    assert tokens.columns[:3] == ["trace_id", "pos", "token_id"]
    assert len(tokens) == 3
    assert tokens.to_arrow_table().num_rows == 3
    assert list(tokens.df()["pos"]) == [0, 1, 2]
    reader = store.sql("from tokens").to_arrow_reader(1000)
    assert sum(batch.num_rows for batch in reader) == 1009
    assert tokens.fetchnumpy()["pos"].tolist() == [0, 1, 2]
    assert "token_id" in repr(tokens)
    with pytest.raises(StoreError, match="nope"):
        tokens.filter("nope = 1").fetchall()
    with pytest.raises(AttributeError):
        tokens.no_such_method  # noqa: B018


def test_router_choices_has_one_row_a_chosen_expert(store):
    rows = store.sql(
        "select pos, rank, expert, weight, affinity, bias_flip from router_choices"
        " where trace_id = 2 and layer = 3 order by pos, rank"
    ).fetchnumpy()
    routing = store.trace(2).routing(3)
    tokens, k = routing["expert_ids"].shape
    np.testing.assert_array_equal(rows["pos"], np.repeat(np.arange(tokens), k))
    np.testing.assert_array_equal(rows["rank"], np.tile(np.arange(k), tokens))
    np.testing.assert_array_equal(rows["expert"], routing["expert_ids"].ravel())
    np.testing.assert_array_equal(rows["weight"], routing["weights"].ravel())
    np.testing.assert_array_equal(rows["affinity"], routing["affinities"].ravel())
    np.testing.assert_array_equal(rows["bias_flip"], routing["bias_flips"].ravel())
    assert routing["bias_flips"].any()
    assert any(len(lost) for lost in routing["group_flips"])


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (
            "from nope",
            "no table nope: the store has activations, .*, experts, .*router_choices.*traces",
        ),
        ("select expert from routing", "expert.* routing: trace_id, layer, pos, expert_ids"),
        ("select rnk from router_choices", "rnk.*router_choices: trace_id, layer, pos, rank"),
        ("selec 1", "syntax error.*selec 1"),
        ("select 'a'::int", "Could not convert string 'a'"),
        (" -- nothing", "the query is empty"),
        ("select ?", None),
    ],
)
def test_a_wrong_query_is_answered_with_a_sentence(store, query, sentence):
    with pytest.raises(StoreError, match=sentence):
        store.sql(query).fetchall()


def test_scratch_tables_live_in_memory_only(store, path):
    before = sorted(path.rglob("*"))
    store.sql("create table mine as select trace_id from traces where correct")
    assert len(store.sql("from mine")) == len(store.sql("from traces where correct"))
    assert sorted(path.rglob("*")) == before


def test_names_in_queries_are_never_python_variables(store):
    query = "from tokens_by_me"
    tokens_by_me = {"x": np.arange(3)}  # noqa: F841
    with pytest.raises(StoreError, match="no table tokens_by_me"):
        store.sql(query).fetchall()


def test_a_trace_says_what_it_has_not(store):
    with pytest.raises(NotInStoreError, match=r"no trace 99: .* holds 6, from 1 to 6"):
        store.trace(99)
    with pytest.raises(NotInStoreError, match="routing has no layer 0 in trace 1: it has 1, 2, 3"):
        store.trace(1).routing(0)
    with pytest.raises(NotInStoreError, match="heads has no layer 9 in trace 1: it has 0, 1, 2, 3"):
        store.trace(1).heads(9)
    bare = store.trace(6)
    with pytest.raises(NotInStoreError, match="router_logits was not recorded for trace 6"):
        bare.router_logits(1)
    assert bare.layers("routing") == []
    assert len(bare.tokens()["text"]) == 9


def test_an_empty_store_has_all_tables(tmp_path):
    StoreWriter(tmp_path).close()
    with Store(tmp_path) as store:
        for table in ("runs", "experts", "traces", "tokens", "routing", "router_logits", "heads"):
            assert store.sql(f"from {table}").fetchall() == []
        assert store.sql("from router_choices").columns[3:5] == ["rank", "expert"]
        with pytest.raises(NotInStoreError, match="holds no traces yet"):
            store.trace(1)


def test_an_open_store_sees_new_commits(tmp_path):
    run = random_run()
    count = "select count(distinct trace_id) from routing"
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(run)
        for n in range(1, 4):
            writer.commit(run_id, [random_trace(run, seed=n)])
            assert store.sql(count).fetchall() == [(n,)]
            assert len(store.trace(n)) == 24
        assert store.sql("select finished from runs").fetchall() == [(None,)]
        writer.finish_run(run_id)
        assert store.sql("select finished from runs").fetchall()[0][0] is not None


def test_many_threads_query_while_a_writer_commits(tmp_path):
    run = random_run()
    failures, done = [], threading.Event()
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(run)
        writer.commit(run_id, [random_trace(run)])

        def read():
            while not done.is_set():
                try:
                    query = "select (select count(*) from tokens), (select count(*) from routing)"
                    ((tokens, rows),) = store.sql(query).fetchall()
                    assert rows == tokens * len(run.sparse_layers)
                    assert store.trace(1).routing(1)["expert_ids"].shape == (24, 3)
                except BaseException as error:
                    failures.append(error)
                    raise

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for seed in range(40):
            writer.commit(run_id, [random_trace(run, seed=seed)])
        done.set()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.mark.parametrize("name", ["it's [a] *st?ore", "{a,b} %41 #x", "数 é", "back\\slash"])
def test_any_folder_name_will_do(tmp_path, name):
    run = random_run()
    with StoreWriter(tmp_path / name) as writer:
        run_id = writer.start_run(run)
        for _ in range(2):
            writer.commit(run_id, [random_trace(run)])
    with Store(tmp_path / name) as store:
        assert store.sql("select count(*) from tokens").fetchall() == [(48,)]
        assert store.trace(2).routing(1)["expert_ids"].shape == (24, 3)


def test_what_is_no_store_is_refused_with_advice(tmp_path, copy):
    with pytest.raises(StoreError, match=r"there is no store at .*missing.*capture"):
        Store(tmp_path / "missing")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreError, match="is not a store"):
        Store(tmp_path / "other")
    marker = copy / "store.json"
    marker.write_text(json.dumps({"format_version": 99}))
    with pytest.raises(StoreError, match=r"format version 99.*upgrade"):
        Store(copy)
    for text in ("{", "[]", "{}"):
        marker.write_text(text)
        with pytest.raises(StoreError, match=r"store\.json is damaged"):
            Store(copy)


def test_a_damaged_or_missing_manifest_is_named(copy):
    for name in ("manifest.sqlite-wal", "manifest.sqlite-shm"):
        (copy / name).unlink(missing_ok=True)
    manifest = copy / "manifest.sqlite"
    manifest.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"manifest\.sqlite is damaged"):
        Store(copy)
    manifest.unlink()
    with pytest.raises(StoreError, match=r"manifest\.sqlite"):
        Store(copy)


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def zero_pages(content):
    return content[:1000] + bytes(5000) + content[6000:]


def zero_footer(content):
    return content[:-2000] + bytes(1992) + content[-8:]


def zero_header(content):
    return content[:4] + bytes(400) + content[404:]


def other_file(content):
    return bytes(len(content))


def read_all_routing(store, trace_ids):
    for trace_id in trace_ids:
        for layer in (1, 2, 3):
            store.trace(trace_id).routing(layer)


@pytest.mark.parametrize(
    "damage", [cut, empty, zero_pages, zero_header, zero_footer, other_file, None]
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_file_is_named_and_all_else_is_readable(copy, damage, which):
    """``which`` of the two routing files; None removes it."""
    file = sorted(copy.glob("routing/*/*.parquet"))[which]
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    lost, kept = ((1, 2, 3), (4, 5)) if which == 0 else ((4, 5), (1, 2, 3))
    with Store(copy) as store:
        everything = "select sum(pos), sum(entropy), max(weights), max(bias_flips) from routing"
        for query in (everything, "select sum(weight), sum(affinity) from router_choices"):
            with pytest.raises(StoreError, match=file.name) as caught:
                store.sql(query).fetchall()
            assert str(file) in str(caught.value)
            with pytest.raises(StoreError, match=file.name):
                list(store.sql("from routing").to_arrow_reader(50))
            assert "restore a copy of it" in str(caught.value)
        assert store.sql("select count(*) from tokens").fetchall() == [(1009,)]
        for trace_id in kept:
            assert store.trace(trace_id).routing(2)["expert_ids"].shape == (200, 3)
        for trace_id in lost:
            assert store.trace(trace_id).heads(2)["entropy"].shape == (200, 4)
        with pytest.raises(StoreError, match=file.name):
            read_all_routing(store, lost)


def test_verifying_names_a_damaged_file(copy):
    file = sorted(copy.glob("router_logits/*/*.parquet"))[1]
    file.write_bytes(zero_pages(file.read_bytes()))
    with Store(copy) as store, pytest.raises(StoreError, match=file.name):
        verify_choices(store)


def test_a_file_damaged_while_the_store_is_open_is_named(copy):
    with Store(copy) as store:
        relation = store.sql("select sum(pos) from routing")
        assert relation.fetchall()
        file = sorted(copy.glob("routing/*/*.parquet"))[0]
        file.write_bytes(file.read_bytes()[:500])
        with pytest.raises(StoreError, match=file.name):
            relation.fetchall()
