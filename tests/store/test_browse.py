"""A store as a person meets it in a notebook: its traces, tables, and what they show."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from records import random_run, random_trace

from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store import Store, StoreWriter

EVIL = "<script>alert(1)</script>&\"'\x1b[31m\u202e\n"
RUN = random_run(model=EVIL, record=("routing",))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Six traces in two commits; texts that do harm where they are not escaped."""
    path = tmp_path_factory.mktemp("stores") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        traces = [random_trace(RUN, 20 + i, seed=i) for i in range(3)]
        writer.commit(run_id, traces)
        more = [random_trace(RUN, 40 + i, seed=i) for i in range(3)]
        writer.commit(run_id, [*more[:2], evil(more[2])])
        writer.finish_run(run_id)
    return path


def evil(trace):
    """The trace with text that does harm, in its last token too."""
    text, tokens = trace.text + EVIL, trace.tokens
    end = tokens.end.copy()
    end[-1] += len(EVIL)
    tokens = replace(tokens, text=[*tokens.text[:-1], tokens.text[-1] + EVIL], end=end)
    return replace(trace, text=text, tokens=tokens, answer=EVIL, problem_id=EVIL)


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store


def test_a_store_is_a_collection_of_traces(store):
    assert len(store) == 6
    assert [trace.trace_id for trace in store] == [1, 2, 3, 4, 5, 6]
    assert store[3].text == store.trace(3).text
    assert [trace.trace_id for trace in store[2:4]] == [2, 3]
    assert [trace.trace_id for trace in store[5:]] == [5, 6]
    assert [trace.trace_id for trace in store[:]] == [1, 2, 3, 4, 5, 6]
    assert 3 in store
    for trace, same in zip(store, (store.trace(i) for i in range(1, 7)), strict=True):
        assert trace.summary == same.summary


@pytest.mark.parametrize("other", [99, -1, "3", None, True, 2**70, 1.0, b"1"])
def test_what_is_no_id_of_a_trace_is_not_in_a_store(store, other):
    assert other not in store


@pytest.mark.parametrize(
    ("which", "error", "said"),
    [
        (-1, NotInStoreError, "no trace -1: .* holds 6, from 1 to 6"),
        (7, NotInStoreError, "no trace 7"),
        (True, NotInStoreError, "not a whole number"),
        (1.0, NotInStoreError, "not a whole number"),
        (slice(-2, None), NotInStoreError, "trace id -2: a slice goes by ids"),
        (slice(None, None, 2), NotInStoreError, "a step of 2"),
        (slice("a"), NotInStoreError, "trace id 'a'"),
        ("tokns", ConfigError, "Did you mean 'tokens'"),
    ],
)
def test_wrong_items(store, which, error, said):
    with pytest.raises(error, match=said):
        store[which]


def test_an_empty_store_is_a_store(tmp_path):
    StoreWriter(tmp_path).close()
    with Store(tmp_path) as store:
        assert store
        assert (len(store), [*store], store[:]) == (0, [], [])
        assert "0 traces, 0 tokens, 0 runs" in repr(store)


def test_iterating_reads_few_traces_at_a_time(store, monkeypatch):
    monkeypatch.setattr("ringlens.store.read.browse.TOGETHER", 2)
    queries = []
    sql = Store.sql
    monkeypatch.setattr(Store, "sql", lambda *given: queries.append(given[1]) or sql(*given))
    walk = iter(store)
    assert next(walk).trace_id == 1
    assert len(queries) == 2  # the ids, and two traces
    assert [trace.trace_id for trace in walk] == [2, 3, 4, 5, 6]
    assert len(queries) == 4


def test_tables_by_name(store):
    assert "token_context" in store._ipython_key_completions_()
    assert store["tokens"].columns[:2] == ["trace_id", "pos"]
    assert len(store["traces"]) == 6
    relation = store["tokens"]
    assert relation._ipython_key_completions_() == relation.columns
    assert {"phase", "df", "pl", "fetchall", "exact"} <= {*dir(relation)}


def test_relations_become_frames(store):
    relation = store.sql("select trace_id, pos, text, entropy from tokens order by all")
    frame, polars = relation.df(), relation.pl()
    assert [*frame.columns] == polars.columns == relation.columns
    assert frame["text"].tolist() == polars["text"].to_list()
    assert len(frame) == len(polars) == len(relation)


class Texts(HTMLParser):
    """Tags, and texts between them."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def shown(store):
    """Each object that shows text of the store."""
    traces = store.sql("select * from traces order by trace_id desc")
    return [store, store[6], traces, store.tokens("trace_id = 6"), store["runs"]]


@pytest.mark.parametrize("index", range(5))
def test_what_is_shown_is_short_and_escaped(store, index):
    item = shown(store)[index]
    text = repr(item)
    assert 1 <= len(text.splitlines()) <= 6
    assert all(line.isprintable() for line in text.split("\n"))
    parser = Texts()
    parser.feed(item._repr_html_())
    assert {*parser.tags} <= {"div", "table", "tr", "th", "td"}
    assert all(each.isprintable() for each in parser.texts)
    assert len(item._repr_html_()) < 60_000


def test_harmful_text_is_still_told(store):
    assert "<script>" in repr(store[6])
    assert "&lt;script&gt;" in store[6]._repr_html_()
    assert r"\x1b[31m" in repr(store)


def test_a_wrong_query_is_told_when_it_is_shown(store):
    relation = store.sql("select cast(text as int) from tokens")
    assert "Could not convert" in repr(relation)
    assert "Could not convert" in relation._repr_html_()


def test_closed_stores_can_be_shown(path):
    store = Store(path)
    store.close()
    assert re.fullmatch(r"Store\('.*', closed\)", repr(store))
    assert "closed" in store._repr_html_()


def test_printing_a_relation_draws_all_its_rows(store):
    assert str(store["traces"]).count("countdown") > 5
