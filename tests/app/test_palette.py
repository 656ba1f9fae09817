"""What a text that is typed into the palette means."""

import pytest
from planted import RUN
from thoughts import Thought, write_thoughts

from ringlens.store import Store

HOST = {"Host": "127.0.0.1:8050"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two traces of one problem, of which the second is wrong, and one of another."""
    thoughts = [
        Thought([0], prompt="Count the <b>sheep</b>. "),
        Thought([0], prompt="Count the <b>sheep</b>. ", correct=False),
        Thought([0], prompt="Name a prime. ", problem="q"),
    ]
    return write_thoughts(tmp_path_factory.mktemp("stores") / "store", thoughts)


def found(client, text, **more):
    answer = client.get("/data/find", query_string={"text": text, **more}, headers=HOST)
    assert answer.status_code == 200
    return [each["title"] for each in answer.json["found"]], answer.json


@pytest.mark.parametrize("text", ["1", " #1", "trace 1", "TRACE #1"])
def test_a_number_is_a_trace(client, text):
    titles, body = found(client, text)
    assert titles == [
        "Trace 1", "Heads of trace 1", "Trace 1 beside trace 2", "Routing of trace 1",
    ]  # fmt: skip
    assert body["found"][0]["about"] == "correct · Count the <b>sheep</b>."
    assert [each["href"] for each in body["found"]] == [
        "/trace/1", "/heads/1", "/beside/1/2", "/routing?trace=1",
    ]  # fmt: skip
    assert "Trace 3 beside" not in str(found(client, "3"))  # none is of its problem


@pytest.mark.parametrize(
    "text", ["L2 E7", "2/7", "2 7", "e7 l2", "L2E7", "2,7", "expert 2 7", "layer 2"]
)
def test_two_numbers_are_an_expert(client, store, text):
    titles, body = found(client, text)
    if text == "layer 2":
        assert titles == []
        return
    assert titles[:2] == ["Layer 2, expert 7", "Layer 2, expert 7 on the map"]
    ((run,),) = store.sql("select run_id from runs").fetchall()
    assert body["found"][0]["href"] == f"/expert/2/7?run={run}"
    assert found(client, text, run="none of these")[0] == titles


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("L99 E1", "Layer 99 has no experts: layers"),
        (f"2 {RUN.experts}", f"There is no expert {RUN.experts}: a layer has 0 to"),
        ("9" * 60 + " 1", "has no experts"),
    ],
)
def test_an_expert_that_is_not_there_is_told(client, text, said):
    titles, body = found(client, text)
    assert said in body["said"]
    assert not any("expert" in title for title in titles)


def test_words_are_of_problems_and_runs(client, store):
    assert found(client, "sheep count")[0] == ["Trace 1", "Trace 2"]
    assert found(client, "PRIME")[0] == ["Trace 3"]
    ((run, model),) = store.sql("select run_id, model from runs").fetchall()
    assert found(client, run)[0] == found(client, f"run {model[:6]}")[0] == [f"Run {run}"]
    assert found(client, "")[0] == found(client, "%")[0] == found(client, "nowhere '; --")[0] == []
    assert found(client, "99")[0] == []


def test_a_store_without_routing_has_no_experts(tmp_path):
    from ringlens.app.palette.find import _experts
    from ringlens.app.shared.sources import Sources
    from ringlens.store import StoreWriter

    with StoreWriter(tmp_path / "empty"):
        pass
    sources = Sources(Store(tmp_path / "empty"))
    assert _experts(sources, "1 1", None) == ([], "No run of this store recorded routing.")
    sources.close()
