"""What stands along a thought: as the store has it, and as its own SQL and Python give it."""

import json

import numpy as np
import pytest
from ran import by_python, by_sql, decoded
from records import random_attention, random_run, random_trace
from thoughts import Thought, write_thoughts

from ringlens import analysis
from ringlens.analysis.roles import ROLES
from ringlens.app.trace import thought
from ringlens.app.trace.thought import LEAST_WINDOW, WINDOWS, window_of
from ringlens.store import Store, StoreWriter

HOST = {"Host": "127.0.0.1:8050"}
RECEIVED = random_run(record=("routing", "heads", "attention:4@1+2/0+3"))
TOKENS = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """1: five steps, one goes back, with beliefs; 2: two steps; 3: no steps, but attention."""
    thoughts = [
        Thought([0, 1, 0, 2, 1], backtracks=frozenset({2})),
        Thought([0, 1], roles=["plan_generation", None]),
    ]
    path = write_thoughts(tmp_path_factory.mktemp("stores") / "store", thoughts)
    with Store(path) as store:
        ((first,),) = store.sql("select run_id from runs").fetchall()
    with StoreWriter(path) as writer:
        beliefs = [
            {"unit": 0, "key": "candidate", "json": told("24", True)},
            {"unit": 1, "key": "candidate", "json": told("7", False)},
        ]
        for step, p in ((-1, 0.1), (1, 0.4), (3, 0.9)):
            beliefs += [
                {"unit": unit, "key": "p", "value": value, "step": step}
                for unit, value in ((0, p), (1, 0.95 - p))
            ]
        beliefs = [{"probe": "belief", "trace_id": 1, **row} for row in beliefs]
        writer.replace_rows(first, "probes", beliefs)
        run = writer.start_run(RECEIVED)
        attention = random_attention(np.random.default_rng(5), (1, 2), (0, 3), range(TOKENS))
        writer.commit(run, [random_trace(RECEIVED, TOKENS, seed=5, attention=attention)])
    return path


def told(answer, final):
    return json.dumps({"answer": answer, "correct": final, "final": final})


def asked(client, trace, name):
    response = client.get(f"/data/trace/{trace}/{name}", headers=HOST)
    assert response.status_code == 200
    return response.json


def same(made, store, columns):
    """The SQL and the Python of some numbers give these columns."""
    frames = [by_python(made)] + ([by_sql(store, made)] if "sql" in made else [])
    for frame in frames:
        for name, values in columns.items():
            np.testing.assert_allclose(
                frame[name].to_numpy(float), np.asarray(values, float), rtol=1e-5, atol=1e-6
            )


def test_steps_are_those_of_the_store(client, store):
    body = asked(client, 1, "steps")
    assert decoded(body["first"], "u4").tolist() == [1, 13, 25, 37, 49]
    assert decoded(body["end"], "u4").tolist() == [13, 25, 37, 49, 61]
    assert decoded(body["backtrack"], "u1").tolist() == [0, 0, 1, 0, 0]
    assert body["source"] == ["planted"]
    same(body["made"], store, {"token_start": decoded(body["first"], "u4")})
    roles = decoded(asked(client, 2, "steps")["role"], "u1").tolist()
    assert roles == [ROLES.index("plan_generation"), len(ROLES)]  # the second has no label
    bare = asked(client, 3, "steps")
    assert bare["command"].startswith("ringlens steps ")


def test_routing_change_is_that_of_the_analysis(client, store):
    body = asked(client, 1, "change")
    same(body["made"], store, {"from_previous": decoded(body["change"], "f4")})
    chance = decoded(body["chance"], "f4")
    null = analysis.shift_along(analysis.Shuffled(store), 1, body["window"])
    assert len(chance) == len(decoded(body["start"], "u4")) == null["start"].nunique()
    np.testing.assert_allclose(np.nanmean(chance), null["from_previous"].mean(), rtol=1e-5)


def test_long_traces_show_changes_of_some_layers(store, monkeypatch):
    tokens = len(store.trace(1))
    monkeypatch.setattr("ringlens.app.trace.thought.CHANGE_ROWS", 2 * tokens)
    body = thought.change(store, 1, tokens)  # not by the client, whose answers are kept
    assert len(body["layers"]) == 2
    same(body["made"], store, {"from_previous": decoded(body["change"], "f4")})


@pytest.mark.parametrize("tokens", [1, 100, LEAST_WINDOW * WINDOWS, 65_536, 10**6])
def test_windows_are_few(tokens):
    assert window_of(tokens) >= LEAST_WINDOW
    assert -(-tokens // window_of(tokens)) <= WINDOWS


def test_attention_received_is_what_later_tokens_pay(client, store):
    body = asked(client, 3, "received")
    found = decoded(body["received"], "f4")
    wanted = np.zeros(TOKENS)
    whole = 0.0
    for layer, head in ((1, 0), (1, 3), (2, 0), (2, 3)):
        recorded = store.trace(3).attention(layer, head)
        for pos, places, weights in zip(
            recorded.pos, recorded.positions, recorded.weights, strict=True
        ):
            for place, weight in zip(places, weights, strict=True):
                whole += weight if place >= 0 else 0
                if 0 <= place < pos:
                    wanted[place] += weight / 4
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert body["heads"] == 4
    assert body["held"] == pytest.approx(whole / (4 * TOKENS), rel=1e-4)
    frame = by_sql(store, body["made"])
    np.testing.assert_allclose(frame["received"], wanted[frame["pos"]], rtol=1e-4)
    assert by_python(body["made"]).equals(frame)
    assert "attention:4@0-" in asked(client, 1, "received")["command"]


def test_the_map_is_that_of_the_analysis(client, store):
    body = asked(client, 1, "map")
    assert decoded(body["step"], "u4").tolist() == [0, 1, 2, 3, 4]
    same(body["made"], store, {"pc1": decoded(body["x"], "f4"), "pc2": decoded(body["y"], "f4")})
    assert "three steps" in asked(client, 2, "map")["lacks"]


def test_a_large_map_takes_some_of_the_layers(store, monkeypatch):
    monkeypatch.setattr("ringlens.app.trace.thought.MAP_NUMBERS", 2 * 5 * 16)
    body = thought.path_map(store, 1)
    assert len(body["layers"]) == 2
    assert "layers=" in body["made"]["python"]
    same(body["made"], store, {"pc1": decoded(body["x"], "f4")})


def test_belief_is_what_the_probe_stored(client, store):
    body = asked(client, 1, "belief")
    assert body["step"] == [-1, 1, 3]
    assert decoded(body["pos"], "u4").tolist() == [0, 24, 48]
    assert body["top"] == ["7", "7", "24"]
    assert decoded(body["probability"], "f4").tolist() == pytest.approx([0.1, 0.4, 0.9])
    same(body["made"], store, {"p_final": decoded(body["probability"], "f4")})
    assert asked(client, 2, "belief")["command"].startswith("ringlens probe belief ")


def test_what_the_page_knows_already_is_made_as_it_says(client, store):
    from ringlens.app.trace.page import made_of

    own = made_of(store, 1)
    tokens = store.trace(1).tokens()
    for name, wanted in (("entropy", tokens["entropy"]), ("logprob", -tokens["logprob"])):
        column = "surprise" if name == "logprob" else name
        same(own[name], store, {column: wanted})
    body = asked(client, 1, "margin")
    same(own["margin"], store, {"margin": decoded(body["margin"], "f4")})
    body = asked(client, 1, "layer/2")
    same(body["made"], store, {"expert": decoded(body["expert"], "u2")})
    at = {key: text.replace("$pos", "7") for key, text in own["token"].items()}
    assert by_sql(store, at)["layer"].tolist() == store.trace(1).layers("routing")
    assert len(by_python(at)) == len(by_sql(store, own["phase"]).iloc[:3])
