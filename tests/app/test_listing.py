"""What an address asks of the list of traces, and the neighbours of a trace in it."""

from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import random_run, random_trace
from small_store import write_run

from ringlens.app.listing.conditions import COLUMNS, KINDS, VERDICTS
from ringlens.app.listing.rows import place, traces_page
from ringlens.app.listing.wanted import wanted
from ringlens.app.shared.catalogue import Catalogue
from ringlens.errors import RequestError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    run = random_run()
    traces = [
        random_trace(run, 20 + i % 3, seed=i, correct=[True, False, None][i % 3], task=f"t{i % 2}")
        for i in range(9)
    ]
    return write_run(tmp_path_factory.mktemp("stores") / "store", run, traces)


@pytest.fixture(scope="module")
def catalogue(store):
    return Catalogue(store)


def query_of(address):
    return {name: values[-1] for name, values in parse_qs(address.lstrip("?")).items()}


SORTS = st.lists(st.tuples(st.sampled_from(["", "-"]), st.sampled_from(COLUMNS)), max_size=3)
FILTERS = st.sampled_from(
    [
        "",
        '{"n_think":{"filterType":"number","type":"greaterThan","filter":12}}',
        '{"task":{"filterType":"text","type":"contains","filter":"1"}}',
        '{"task":{"filterType":"text","type":"blank"}}',
    ]
)
QUERIES = st.fixed_dictionaries(
    {
        "search": st.sampled_from(["", "make", "24 t1", "#3", "'; drop"]),
        "verdict": st.sampled_from([*VERDICTS]),
        "kind": st.sampled_from([*KINDS]),
        "sort": SORTS.map(lambda by: ",".join(sign + column for sign, column in by)),
        "filter": FILTERS,
    }
)


@given(QUERIES)
def test_a_trace_stands_between_its_neighbours_of_the_list(catalogue, query):
    asked = wanted(query)
    assert wanted(query_of(asked.address)) == asked
    where = asked.condition
    rows, total = traces_page(catalogue, where.sql, asked.order, where.params, 0, 100)
    ids = [row["trace_id"] for row in rows]
    assert total == len(ids)
    assert traces_page(catalogue, where.sql, asked.order, where.params, 100, 200) == ([], total)
    for trace_id in range(1, 10):
        at = place(catalogue, asked, trace_id)
        assert at.length == total
        if trace_id not in ids:
            assert (at.number, at.previous, at.next) == (None, None, None)
            continue
        i = ids.index(trace_id)
        assert at.number == i + 1
        assert at.previous == (ids[i - 1] if i else None)
        assert at.next == (ids[i + 1] if i + 1 < total else None)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"verdict": "maybe"}, "verdict must be one of all, correct, wrong, unjudged, not 'maybe'"),
        ({"kind": "x"}, "kind must be one of"),
        ({"sort": "-text"}, "a column of the order must be one of"),
        ({"filter": "{"}, "JSON"),
        ({"filter": "[]"}, "must be an object"),
        ({"filter": '{"nope":{}}'}, "a column of the filter must be one of"),
        ({"filter": '{"task":3}'}, "the filter of task must be an object"),
    ],
)
def test_what_there_is_not_is_refused(query, said):
    with pytest.raises(RequestError, match=said):
        wanted(query)


def test_the_whole_list_has_no_address():
    assert wanted({"tok": "3"}).address == ""
    assert wanted({"sort": "", "search": " "}).is_everything
    assert not wanted({"verdict": "wrong"}).is_everything
