"""The card of an expert: its numbers are those that its own SQL and Python give."""

import shlex

import numpy as np
import pytest
from ran import by_python, by_sql
from thoughts import Thought, write_thoughts

from ringlens import analysis
from ringlens.app.expert import card
from ringlens.cli.main import main
from ringlens.sandbox import confine, confined_store
from ringlens.store import Store, StoreWriter

HOST = {"Host": "127.0.0.1:8050"}
here = pytest.mark.skipif(bool(confine.missing()), reason=f"no sandbox: {confine.missing()}")
EXPERT, LAYER = 3, 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Five thoughts of two states; without expert 2/3 the first two are worse."""
    roles = ["plan_generation", "active_computation"] * 3
    thoughts = [Thought([0, 1, 0, 1, 0, 1], roles=roles, correct=i > 1) for i in range(5)]
    path = write_thoughts(tmp_path_factory.mktemp("stores") / "store", thoughts)
    with Store(path) as store:
        ((run,),) = store.sql("select run_id from runs").fetchall()
    with StoreWriter(path) as writer:
        place = {"probe": "ablation", "layer": LAYER, "unit": EXPERT, "key": "loss"}
        rows = [{**place, "trace_id": i, "value": value} for i, value in ((1, 0.1), (2, 0.3))]
        writer.replace_rows(run, "probes", rows)
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_card():
    """The programs make one card after another of the same expert, and it takes a second."""
    made, whole = {}, analysis.expert_card

    def kept(store, *arguments):
        if arguments not in made:
            made[arguments] = whole(store, *arguments)
        return made[arguments]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "expert_card", kept)
        patch.setattr(confined_store, "SECONDS", 300.0)
        yield


def asked(client, part, status=200, **query):
    address = f"/data/expert/{LAYER}/{EXPERT}/{part}"
    response = client.get(address, headers=HOST, query_string=query)
    assert response.status_code == status, response.text[:300]
    return response.json


def column(rows, name):
    return np.array([np.nan if row[name] is None else row[name] for row in rows], float)


NUMBERS = {
    "load": ("n", "share", "lift"),
    "causes": ("bias_flips", "margin_50"),
    "tokens": ("n", "share"),
    "roles": ("share", "lift"),
    "contexts": ("trace_id", "pos", "weight"),
    "company": ("n", "lift"),
}


@pytest.mark.parametrize("part", NUMBERS)
def test_a_part_is_made_as_it_says(client, store, part):
    body = asked(client, f"card/{part}")
    rows = body["rows"]
    assert rows
    keys = [key for key in ("phase", "text", "role", "other") if key in rows[0]]
    frames = [by_python(body["made"])]
    if "sql" in body["made"]:
        frames.append(by_sql(store, body["made"]))
    for frame in frames:
        if "layer" in frame:
            frame = frame[(frame["layer"] == LAYER)]
        if "expert" in frame:
            frame = frame[(frame["expert"] == EXPERT)]
        if part != "contexts":
            frame = frame.set_index(keys)
            places = [tuple(row[key] for key in keys) for row in rows]
            frame = frame.loc[places if keys[1:] else [place for (place,) in places]]
        for name in NUMBERS[part]:
            if name in frame:
                np.testing.assert_allclose(frame[name], column(rows, name), rtol=1e-5, err_msg=name)


def test_npmi_is_that_of_its_definition(client):
    rows = asked(client, "card/roles")["rows"]
    N, n_e = sum(row["tokens"] for row in rows), sum(row["n"] for row in rows)
    assert {row["phase"] for row in rows} == {"think"}
    for row in rows:
        joint = row["n"] / N
        wanted = np.log(joint / (row["tokens"] / N * n_e / N)) / -np.log(joint)
        assert row["npmi"] == pytest.approx(wanted)
    found = by_python(asked(client, "card/roles")["made"])
    np.testing.assert_allclose(found["npmi"], column(rows, "npmi"))


def test_company_is_that_of_the_analysis(client, store):
    pairs = analysis.coactivation(store, "true")
    wanted = pairs[(pairs.layer == LAYER) & (pairs.expert == EXPERT)]
    found = card.together(store, LAYER, EXPERT, "true")
    both = wanted.merge(found, on=["phase", "other"])
    assert len(both) == len(wanted) == len(found)
    np.testing.assert_allclose(both["lift_x"], both["lift_y"])
    assert (both["n_x"] == both["n_y"]).all()


def test_a_label_says_how_far_it_holds(client):
    body = asked(client, "card/label")
    assert body["text"]
    assert body["f1"] is None or 0 <= body["f1"] <= 1
    assert (body["f1"] is None) == bool(body["reason"])
    assert sum(body["traces"]) == 5
    assert by_python(body["made"]).text == body["text"]


def test_what_leaving_it_out_did(client, store):
    body = asked(client, "ablation")
    (effect,) = body["effects"]
    assert effect["mean"] == pytest.approx(0.2)
    assert (effect["low"], effect["high"]) == pytest.approx((0.1, 0.3))
    assert by_sql(store, body["made"])["value"].tolist() == [0.1, 0.3]
    response = client.get("/data/expert/1/0/ablation", headers=HOST)
    program, name, *words = shlex.split(response.json["command"])
    assert (program, name) == ("ringlens", "ablate")
    with main.get_command(None, name).make_context(name, words) as context:
        asked_of = (context.params["layers"], context.params["expert_ids"])
    assert asked_of == ("1", "0")


@here
def test_the_tokens_are_chosen_by_a_predicate(client, store):
    body = asked(client, "card/load", where="entropy > 0.5 and phase = 'think'")
    (row,) = body["rows"]
    query = f"""select count(*) from routing join tokens using (trace_id, pos)
        where layer = {LAYER} and tokens.entropy > 0.5 and phase = 'think'
        and list_contains(expert_ids, {EXPERT})"""
    assert store.sql(query).fetchall() == [(row["n"],)]


@here
@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("phaze = 'think'", "Did you mean 'phase'"),
        ("true) or (true", "no predicate"),
        ("pos in (select 1)", "a predicate from outside"),
        ("read_text('/etc/passwd') = ''", "may not use read_text"),
        ("entropy > 1e9", "no token"),
        ("'", ""),
    ],
)
def test_predicates_of_strangers_are_refused_with_a_sentence(client, where, says):
    body = asked(client, "card/load", 400, where=where)
    assert says in body["error"]
    assert len(body["error"]) < 900


@pytest.mark.parametrize("place", ["99/0", "2/99", "x/0", "2/-1", "0/0"])
def test_experts_that_are_not_there(client, place):
    response = client.get(f"/data/expert/{place}/card/load", headers=HOST)
    assert response.status_code == 404
    assert response.json["error"]
    assert asked(client, "card/nothing", 404)["error"]
    assert asked(client, "card/load", 404, run="nope")["error"]
