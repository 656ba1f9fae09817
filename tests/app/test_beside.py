"""Two traces beside one another: as the analysis aligns them, and why some cannot be."""

import numpy as np
import pytest
from planted import RUN
from ran import by_python, by_sql, decoded
from records import random_trace
from thoughts import Thought, write_thoughts

from ringlens.analysis import trajectory
from ringlens.app.listing.problem import partner
from ringlens.app.shared.constants import NO_STEP
from ringlens.store import StoreWriter

HOST = {"Host": "127.0.0.1:8050"}
ROUTE, DETOUR = [0, 1, 2, 3, 4, 5], [0, 1, 7, 8, 2, 3, 4, 5]
NO_STEPS, OTHER_MODEL, NO_ROUTING = 4, 5, 6


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """1, 2: of problem p; 3: of q; 4 to 6: of p, without steps, of another model, not routed."""
    thoughts = [Thought(ROUTE), Thought(DETOUR, correct=False), Thought(ROUTE, problem="q")]
    path = write_thoughts(tmp_path_factory.mktemp("stores") / "store", thoughts)
    own = {"problem_id": "p", "task": "plain", "prompt": "What is it?", "correct": True}
    step = {"step": 0, "start": 0, "end": 2, "token_start": 0, "token_end": 1, "text": "ab"}
    with StoreWriter(path) as writer:
        for run, bare in ((RUN, {}), ("other", {}), (RUN, {"routing": None})):
            named = RUN if run is RUN else type(RUN)(**{**vars(RUN), "model": "other"})
            run_id = writer.start_run(named)
            trace = random_trace(RUN, 30, router_logits=None, heads=None, **own, **bare)
            writer.commit(run_id, [trace])
            if bare:
                writer.replace_rows(run_id, "steps", [{"trace_id": NO_ROUTING, **step}])
            writer.finish_run(run_id)
    return path


def asked(client, first, second, name="alignment"):
    return client.get(f"/data/beside/{first}/{second}/{name}", headers=HOST)


def test_rows_are_those_of_the_analysis(client, store):
    body = asked(client, 1, 2).json
    found = trajectory.alignment(store, 1, 2, draws=0)
    for side in ("first", "second"):
        assert decoded(body["rows"][side], "u4").tolist() == found[side].fillna(NO_STEP).tolist()
    for name in ("distance", "similarity", "score"):
        np.testing.assert_allclose(decoded(body["rows"][name], "f4"), found[name], rtol=1e-5)
    assert decoded(body["second"]["first"], "u4").tolist() == [1 + 12 * i for i in range(8)]
    assert body["second"]["text"][3] == "Step 3 of this thought. "
    alone = decoded(body["rows"]["first"], "u4") == NO_STEP
    assert decoded(body["rows"]["second"], "u4")[alone].tolist() == [2, 3]  # the detour
    assert body["paired"] == 12 / 14


def test_sql_and_python_give_the_same(client, store):
    made = asked(client, 1, 2).json["made"]
    python, sql = by_python(made), by_sql(store, made)
    for side in ("first", "second"):
        assert sql[side].astype("Int64").equals(python[side])
    np.testing.assert_allclose(sql["distance"].astype(float), python["distance"], atol=1e-6)


def test_chance_is_that_of_random_orders(client, store, monkeypatch):
    body = asked(client, 1, 2, "chance").json
    found = trajectory.alignment(store, 1, 2)
    assert (body["null"], body["p"]) == pytest.approx((found.attrs["null"], found.attrs["p"]))
    monkeypatch.setattr("ringlens.app.beside.alignment.CELLS", 19 * 48)
    assert "too many" in asked(client, 2, 1, "chance").json["lacks"]


def test_long_thoughts_are_compared_on_some_layers(client, store, monkeypatch):
    monkeypatch.setattr("ringlens.app.beside.alignment.NUMBERS", 2 * 14 * RUN.experts)
    body = asked(client, 2, 1).json
    assert len(body["layers"]) == 2
    python, sql = by_python(body["made"]), by_sql(store, body["made"])
    np.testing.assert_allclose(sql["distance"].astype(float), python["distance"], atol=1e-6)
    np.testing.assert_allclose(
        decoded(body["rows"]["distance"], "f4"), python["distance"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (1, 1, "Both are trace 1: choose another trace"),
        (1, 3, "of problem plain p and trace 3 of plain q"),
        (1, NO_STEPS, "Trace 4 is not cut into steps."),
        (1, OTHER_MODEL, "whose experts have nothing to do with each other"),
        (1, NO_ROUTING, "Which experts trace 6 chose was not recorded"),
        (1, 99, "no trace '99'"),
        ("x", 1, "no trace 'x'"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(client, first, second, said):
    found = asked(client, first, second)
    assert found.status_code == 404
    assert said in found.json["error"]


def test_the_partner_is_of_another_verdict_where_there_is_one():
    def row(trace_id, correct):
        return {"trace_id": trace_id, "correct": correct}

    listed = [row(1, True), row(2, None), row(3, True), row(4, False)]
    assert partner(listed, 1) == row(4, False)
    assert partner(listed, 4) == row(1, True)
    assert partner(listed, 2) == row(3, True)
    assert partner(listed[:1], 1) is None
