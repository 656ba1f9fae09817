"""The heads of a trace: their numbers are those that their own SQL and Python give."""

import numpy as np
import pytest
from probed_store import KEEN, STEPS, write_probed_store
from ran import by_python, by_sql, decoded

from ringlens.app.heads.measures import measures

HOST = {"Host": "127.0.0.1:8050"}
TRACE = 1


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_probed_store(tmp_path_factory.mktemp("stores") / "store")


def asked(client, place, status=200, **query):
    response = client.get(f"/data/heads/{place}", headers=HOST, query_string=query)
    assert response.status_code == status, response.text[:300]
    return response.json


def test_a_map_is_made_as_it_says(client, store):
    found = measures(store, TRACE)
    assert [each.name for each in found][:2] == ["kurtosis:4", "kurtosis:1"]
    assert {"entropy", "first_weight", "recency"} <= {each.name for each in found}
    for each in found:
        body = asked(client, f"{TRACE}/map/{each.name}")
        columns = ["value", *(["by_chance", "p", "q"] if each.tested else [])]
        frame = by_python(body["made"])
        told = by_sql(store, body["made"])
        for column in columns:
            values = decoded(body[column], "f4")
            np.testing.assert_allclose(values, frame[column].astype(float), rtol=1e-6)
            if column != "q":
                np.testing.assert_allclose(values, told[column].astype(float), rtol=1e-6)


def test_a_head_beyond_chance_is_found(client):
    body = asked(client, f"{TRACE}/map/kurtosis:4")
    q_LH = decoded(body["q"], "f4").reshape(len(body["layers"]), body["heads"])
    rows, heads = np.nonzero(q_LH <= 0.05)
    places = {(body["layers"][row], int(head)) for row, head in zip(rows, heads, strict=True)}
    assert places == {KEEN}
    assert 0 not in body["layers"]  # as published


def test_means_of_blocks_are_those_of_the_tokens(client, store):
    body = asked(client, f"{TRACE}/map/first_weight")
    query = f"""select layer, head, avg(x) as value from (
        select layer, unnest(range(len(first_weight))) as head, unnest(first_weight) as x
        from heads where trace_id = {TRACE}) group by all order by all"""
    wanted = store.sql(query).df()["value"]
    np.testing.assert_allclose(decoded(body["value"], "f4"), wanted, rtol=1e-3)


@pytest.mark.parametrize("query", [{}, {"layer": 2}, {"layer": KEEN[0], "head": KEEN[1]}])
def test_steps_look_at_steps(client, store, query):
    body = asked(client, f"{TRACE}/steps", **query)
    mass_SS = decoded(body["mass"], "f4").reshape(STEPS, STEPS)
    lower = np.tril_indices(STEPS)
    assert np.isnan(mass_SS[np.triu_indices(STEPS, 1)]).all()
    for frame in (by_python(body["made"]), by_sql(store, body["made"])):
        np.testing.assert_allclose(mass_SS[lower], frame["mass"], rtol=1e-6)


def test_what_is_not_there(client):
    assert "no trace 9" in asked(client, "9/steps", 404)["error"]
    assert "kurtosis:4" in asked(client, f"{TRACE}/map/nothing", 404)["error"]
    assert asked(client, f"{TRACE}/map/kurtosis:4'", 404)["error"]
    for query in ({"layer": 99}, {"layer": 1, "head": "x"}, {"layer": "-1"}):
        assert "the model has no" in asked(client, f"{TRACE}/steps", 404, **query)["error"]
