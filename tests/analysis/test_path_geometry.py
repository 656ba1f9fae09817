"""Signatures, paths and maps: shapes that are known exactly, and planted states of steps."""

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import RUN
from thoughts import Thought, opened

from ringlens.analysis import Shuffled
from ringlens.analysis.trajectory import path_geometry, signatures, step_geometry, step_map
from ringlens.analysis.trajectory.geometry import mean_distance, measured, turns
from ringlens.analysis.trajectory.step_map import principal_components
from ringlens.errors import ConfigError, StoreError

SLOW_PATH = [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
"""A thought that stays in a state for long."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    thoughts = [Thought(SLOW_PATH), Thought(SLOW_PATH[::-1]), Thought(SLOW_PATH, problem="q")]
    thoughts += [Thought(SLOW_PATH, problem="q", correct=False)] * 3
    with opened(tmp_path_factory.mktemp("s") / "s", thoughts) as store:
        yield store


SHAPES = st.tuples(st.integers(3, 12), st.integers(2, 6), st.integers(0, 2**32 - 1))


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_a_straight_line_is_straight(shape):
    S, D, seed = shape
    rng = np.random.default_rng(seed)
    at_S = np.concatenate([[0], np.cumsum(rng.uniform(0.5, 2, S - 1))])
    way_D = rng.normal(size=D)
    found = measured(rng.normal(size=D) + at_S[:, None] * way_D / np.linalg.norm(way_D))
    assert found["straightness"] == pytest.approx(1)
    assert found["turn"] == pytest.approx(0, abs=1e-5)
    assert [found["length"], found["net"]] == pytest.approx([at_S[-1]] * 2)


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_a_regular_polygon_is_a_closed_loop(shape):
    S, D, seed = shape
    angle_S = 2 * np.pi * np.arange(S + 1) / S
    plane_2D = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, 2)))[0].T
    found = measured(np.stack([np.cos(angle_S), np.sin(angle_S)], axis=1) @ plane_2D)
    assert found["net"] == pytest.approx(0, abs=1e-12)
    assert found["straightness"] == pytest.approx(0, abs=1e-12)
    assert found["turn"] == pytest.approx(360 / S)
    assert found["length"] == pytest.approx(2 * S * np.sin(np.pi / S))


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.floats(0.1, 10))
def test_measures_do_not_depend_on_place_turn_or_direction(shape, scale):
    S, D, seed = shape
    rng = np.random.default_rng(seed)
    path_SD = rng.normal(size=(S, D))
    turned_SD = scale * path_SD @ np.linalg.qr(rng.normal(size=(D, D)))[0] + rng.normal(size=D)
    found, again = measured(path_SD), measured(turned_SD[::-1])
    for name in ("length", "net", "speed", "distance"):
        assert again[name] == pytest.approx(scale * found[name])
    for name in ("straightness", "turn", "relative_speed", "relative_net"):
        assert again[name] == pytest.approx(found[name])
    assert 0 <= found["straightness"] <= 1


def test_steps_in_random_order_are_what_chance_says():
    rng = np.random.default_rng(0)
    path_SD = rng.normal(size=(15, 400))
    orders = [measured(path_SD[rng.permutation(15)]) for _ in range(400)]
    for name in ("relative_speed", "relative_net"):
        assert np.mean([order[name] for order in orders]) == pytest.approx(1, abs=0.01)
    assert np.mean([order["turn"] for order in orders]) == pytest.approx(120, abs=1)


def test_a_path_that_stands_still_has_no_angles():
    found = measured(np.ones((4, 3)))
    assert found["length"] == found["net"] == found["distance"] == 0
    assert np.isnan([found[name] for name in ("straightness", "turn", "relative_speed")]).all()
    assert np.isnan(turns(np.array([[0.0], [0.0], [1.0]]))).all()
    assert turns(np.array([[0.0], [1.0], [0.0]])) == pytest.approx([180])


def test_distances_are_those_of_all_pairs():
    path_SD = np.random.default_rng(1).normal(size=(700, 3))  # more than one block
    pairs = np.linalg.norm(path_SD[:, None] - path_SD[None], axis=2)
    assert mean_distance(path_SD) == pytest.approx(pairs.sum() / (700 * 699))


def test_signatures_are_shares_of_choices(store):
    found = signatures(store, "trace_id = 1")
    assert found.vector_SD.shape == (20, 3 * RUN.experts)
    np.testing.assert_allclose(np.linalg.norm(found.vector_SD, axis=1), 1, rtol=1e-5)
    rows = store.sql(
        """select expert, count(*) / 36 as share from router_choices
        where trace_id = 1 and layer = 2 and pos between 25 and 36 group by expert"""
    ).fetchall()  # step 2 has twelve tokens of three choices
    expected_E = np.zeros(RUN.experts)
    for expert, share in rows:
        expected_E[expert] = share
    own_E = found.vector_SD[2].reshape(3, RUN.experts)[1]
    np.testing.assert_allclose(3 * own_E**2, expected_E, atol=1e-6)
    one = signatures(store, "trace_id = 1", layers=[2])
    np.testing.assert_allclose(one.vector_SD[2] ** 2, expected_E, atol=1e-6)
    answer = signatures(store, "pos < 13 and phase is not null")
    assert len(answer.steps) == 6 and (answer.steps["tokens"] == 12).all()


def test_signatures_of_recorded_vectors_are_means(store):
    found = signatures(store, "trace_id = 2", point="resid_post")
    assert found.layers == (1, 2) and found.kind == "resid_post"
    np.testing.assert_allclose(found.vector_SD[:, 0], SLOW_PATH[::-1], atol=0.15)
    path = path_geometry(store, "trace_id = 1", point="resid_post", layers=[2])
    assert path["net"][0] == pytest.approx(np.sqrt(3**2 + 2**2 + 2**2), abs=0.3)


def test_a_slow_path_is_slower_than_chance(store):
    frame = path_geometry(store)
    assert frame["steps"].tolist() == [20] * 6 and frame["tokens"].tolist() == [240] * 6
    assert (frame["relative_speed"] < 0.6).all() and (frame["relative_net"] > 1).all()
    assert frame.attrs["p"] == pytest.approx(2 / 2**6)  # all signs alike: the least of six traces
    null = path_geometry(Shuffled(store))
    assert np.abs(null["relative_speed"] - 1).max() < 0.1
    assert null.attrs["p"] > 0.1


def test_steps_are_fast_where_the_state_changes(store):
    frame = step_geometry(store, "trace_id = 1")
    moved = frame["step"].isin([5, 10, 15])
    assert frame.loc[moved, "speed"].min() > 2 * frame.loc[~moved, "speed"].max()
    assert np.isnan(frame["speed"][0]) and frame["turn"].isna().sum() == 2
    path = path_geometry(store, "trace_id = 1").iloc[0]
    assert path["speed"] == pytest.approx(frame["speed"].mean())
    assert path["turn"] == pytest.approx(frame["turn"].mean())
    assert path["net"] == pytest.approx(frame["from_start"].iloc[-1])


def test_a_map_is_shared_by_the_traces_of_a_problem(store):
    frame = step_map(store, components=3)
    assert frame.groupby("problem_id")["trace_id"].nunique().to_dict() == {"p": 2, "q": 4}
    own = frame[frame["problem_id"] == "p"]
    state = np.where(own["trace_id"] == 1, own["step"] // 5, 3 - own["step"] // 5)
    for a in range(4):  # each state is a place of its own, wherever in the trace it is
        here = own.loc[state == a, ["pc1", "pc2", "pc3"]].to_numpy()
        rest = own.loc[state != a, ["pc1", "pc2", "pc3"]].to_numpy()
        spread = np.linalg.norm(here - here.mean(axis=0), axis=1).max()
        assert np.linalg.norm(rest - here.mean(axis=0), axis=1).min() > 2 * spread
    null = step_map(Shuffled(store), components=3).attrs["explained"]
    assert sum(frame.attrs["explained"]["p"]) > 0.6 > 1.5 * sum(null["p"])


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_a_map_of_as_many_axes_keeps_all_distances(shape):
    S, D, seed = shape
    vector_SD = np.random.default_rng(seed).normal(size=(S, D)).astype(np.float32)
    place_SC, share_C = principal_components(vector_SD, D)
    assert mean_distance(place_SC) == pytest.approx(mean_distance(vector_SD.astype(float)))
    assert share_C.sum() == pytest.approx(1) and (np.diff(share_C) <= 1e-12).all()
    order = np.random.default_rng(seed).permutation(S)
    again_SC, _ = principal_components(vector_SD[order], D)
    known = share_C > 1e-6
    np.testing.assert_allclose(again_SC[:, known], place_SC[order][:, known], atol=1e-3)


@pytest.mark.parametrize("function", [signatures, path_geometry, step_geometry, step_map])
@pytest.mark.parametrize(
    ("where", "more", "message"),
    [
        (None, {"layers": [0]}, "is recorded of layers 1, 2, 3"),
        (None, {"layers": "12"}, "give a list of layers"),
        (None, {"point": "resid_posd"}, "Did you mean 'resid_post'"),
        ("phaze = 'think'", {}, "Did you mean 'phase'"),
        ("phase = 'answer'", {}, "is in a step"),
        ("trace_id = 99", {}, "no token is selected"),
        (None, {"layer": [1]}, "Did you mean 'layers'"),
    ],
)
def test_what_cannot_be_answered_is_refused(store, function, where, more, message):
    with pytest.raises((ConfigError, StoreError), match=message):
        function(store, where, **more)


def test_a_path_takes_two_steps_and_a_map_three(store, monkeypatch):
    with pytest.raises(StoreError, match="two steps"):
        path_geometry(store, "step = 3")
    with pytest.raises(StoreError, match="three steps"):
        step_map(store, "step < 2 and trace_id = 1")
    home = import_module("ringlens.analysis.trajectory.signatures")
    monkeypatch.setattr(home, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="give a few layers"):
        signatures(store)
