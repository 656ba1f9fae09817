"""Comparisons that a store of real captures invites: plain and intervened, and two checkpoints."""

import numpy as np
import pytest
from ran import by_python, decoded

import ringlens as rl
from ringlens.app.compare.presets import presets
from ringlens.app.shared.sources import Sources
from ringlens.sandbox import confine, confined_store

HOST = {"Host": "127.0.0.1:8050"}
CUT = rl.Ablate(4, 5)
pytestmark = pytest.mark.skipif(bool(confine.missing()), reason=f"no sandbox: {confine.missing()}")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Runs of another checkpoint, of one under an intervention, and two of it as it is."""
    path = tmp_path_factory.mktemp("stores") / "store"
    asked = {"max_new_tokens": 24, "record": ("routing",)}
    problems = rl.problems("countdown", n=3)
    nano = rl.load("ring-nano")
    rl.capture(rl.load("ring-nano-base"), problems, path, **asked).close()
    rl.capture(nano, problems, path, interventions=CUT, **asked).close()
    for seed in (1, 2):
        rl.capture(nano, problems, path, seed=seed, temperature=1.0, **asked).close()
    return path


@pytest.fixture(scope="module", autouse=True)
def _time():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confined_store, "SECONDS", 300.0)
        yield


@pytest.fixture(scope="module")
def offered(store):
    return {each["name"]: each for each in presets(Sources(store))}


def runs_of(store):
    query = "select run_id, model, interventions from runs order by started"
    return [run for run, _, _ in store.sql(query).fetchall()]


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        ("Run against run", 3, 2),
        ("Intervened against plain", 1, 3),
        ("Checkpoint against checkpoint", 3, 0),
    ],
)
def test_a_preset_compares_the_runs_that_it_names(client, store, offered, name, a, b):
    preset, runs = offered[name], runs_of(store)
    assert preset["lacks"] == ""
    assert runs[a] in preset["a"]
    assert runs[b] in preset["b"]
    query = {"a": preset["a"], "b": preset["b"]}
    response = client.get("/data/compare/contrast", headers=HOST, query_string=query)
    assert response.status_code == 200, response.text[:300]
    (group,) = response.json["groups"]
    found = by_python(response.json["made"])
    np.testing.assert_allclose(decoded(group["difference"], "f4"), found["difference"], atol=1e-6)
    assert np.abs(found["difference"]).max() > 0


def test_an_expert_that_was_cut_is_chosen_in_the_plain_run_alone(client, offered):
    preset = offered["Intervened against plain"]
    query = {"a": preset["a"], "b": preset["b"]}
    body = client.get("/data/compare/contrast", headers=HOST, query_string=query).json
    (group,) = body["groups"]
    at = group["layers"].index(4), 5
    share_a, share_b = (
        decoded(group[side], "f4").reshape(len(group["layers"]), -1)[at]
        for side in ("share_a", "share_b")
    )
    assert share_a == 0 < share_b
