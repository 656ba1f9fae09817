"""The comparison of two selections: its numbers are those of its own SQL and Python."""

import numpy as np
import pytest
from planted import LAYERS, RUN, liked_in_thought, planted
from ran import by_python, by_sql, decoded
from thoughts import Thought, write_thoughts

from ringlens.app.compare.presets import presets
from ringlens.app.shared.sources import Sources
from ringlens.sandbox import confine, confined_store
from ringlens.store import Store

HOST = {"Host": "127.0.0.1:8050"}
A, B = "phase = 'think'", "phase = 'answer'"
pytestmark = pytest.mark.skipif(bool(confine.missing()), reason=f"no sandbox: {confine.missing()}")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return planted(
        tmp_path_factory.mktemp("stores") / "store", liked_in_thought, traces=10, tokens=60
    )


@pytest.fixture(scope="module", autouse=True)
def _time():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confined_store, "SECONDS", 300.0)
        yield


def asked(client, name, status=200, **query):
    response = client.get(f"/data/compare/{name}", headers=HOST, query_string=query)
    assert response.status_code == status, response.text[:300]
    return response.json


def test_the_difference_is_that_of_the_analysis(client, store):
    body = asked(client, "contrast", a=A, b=B)
    (group,) = body["groups"]
    assert (group["layers"], group["experts"]) == (list(LAYERS), RUN.experts)
    found = by_python(body["made"])
    for name in ("share_a", "share_b", "difference", "low", "high", "p", "q"):
        np.testing.assert_allclose(decoded(group[name], "f4"), found[name], rtol=1e-4, atol=1e-6)
    told = by_sql(store, body["made"]).sort_values(["layer", "expert"])
    np.testing.assert_allclose(
        decoded(group["difference"], "f4"), told["difference"], rtol=1e-4, atol=1e-6
    )
    q_LE = decoded(group["q"], "f4").reshape(len(LAYERS), -1)
    assert (q_LE[:, 5] <= 0.05).all()  # what was planted is found
    assert body["paired"]
    assert body["traces"] == 10


def test_nothing_looks_like_nothing(client):
    body = asked(client, "null", a=A, b=B)
    (group,) = body["groups"]
    found = by_python(body["made"])
    np.testing.assert_allclose(decoded(group["difference"], "f4"), found["difference"], atol=1e-6)
    planted_LE = decoded(asked(client, "contrast", a=A, b=B)["groups"][0]["difference"], "f4")
    assert np.abs(decoded(group["difference"], "f4")).max() < np.abs(planted_LE).max() / 2


def test_equal_tokens_and_layers(client, store):
    body = asked(client, "contrast", a=A, b=B, within="token")
    found = by_python(body["made"])
    np.testing.assert_allclose(
        decoded(body["groups"][0]["difference"], "f4"), found["difference"], atol=1e-6
    )
    body = asked(client, "shift", a=A, b=B)
    (group,) = body["groups"]
    for frame in (by_python(body["made"]), by_sql(store, body["made"])):
        rows = frame.sort_values("layer")
        wanted = [row["divergence"] for row in group["rows"]]
        np.testing.assert_allclose(rows["divergence"], wanted, rtol=1e-5)


def test_phases_that_nothing_names_are_told_apart(client):
    body = asked(client, "contrast", a="correct", b="not correct")
    assert {group["name"] for group in body["groups"]} == {"prompt", "think", "answer"}
    assert not body["paired"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"a": A, "b": ""}, "no predicate"),
        ({"a": A, "b": A}, "in both selections"),
        ({"a": A, "b": "phaze = 'answer'"}, "Did you mean 'phase'"),
        ({"a": A, "b": "phase in (select 'answer')"}, "a predicate from outside"),
        ({"a": A, "b": B, "within": "word"}, "within must be one of"),
        ({"a": A, "b": f"{B} and pos > 100000"}, "no token"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_sentence(client, query, says):
    assert says in asked(client, "contrast", 400, **query)["error"]


def test_a_store_is_compared_as_its_runs_allow(store, tmp_path):
    found = {each["name"]: each for each in presets(Sources(store))}
    assert found["Think against answer"]["b"].endswith("phase = 'answer'")
    assert "not correct" in found["Correct against wrong"]["b"]
    for name in ("Run against run", "Intervened against plain", "Checkpoint against checkpoint"):
        assert found[name]["lacks"].startswith("The store would need ")
        assert found[name]["a"] == ""
    assert "ringlens steps" in found["Doubt against computation"]["lacks"]
    roles = ["uncertainty_management", "active_computation"]
    with Store(write_thoughts(tmp_path / "store", [Thought([0, 1], roles=roles)] * 2)) as other:
        found = {each["name"]: each for each in presets(Sources(other))}
    assert "active_computation" in found["Doubt against computation"]["b"]
