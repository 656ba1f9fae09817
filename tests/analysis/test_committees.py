"""Committees that were planted, and chance where there are none."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from planted import planted
from records import random_run, random_trace, route

from ringlens.analysis.structure.chance import fitted, met_by_chance
from ringlens.analysis.structure.committees import committees
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

THINK = "phase = 'think'"
RUN = random_run(
    experts=24, groups=1, groups_kept=1, k=4, record=("routing",), heads=1,
    expert_bias=np.zeros((3, 24), np.float32),
)  # fmt: skip
PLANTED = ([1, 5, 9, 20], [2, 3, 14])
"""On the second layer a token prefers one of these, or none."""


def written(path, committees, traces=10, tokens=120, run=RUN, seed=3):
    """Choices by loads that differ from expert to expert, with committees on the second layer."""
    rng = np.random.default_rng(seed)
    popularity_SE = rng.normal(0, 0.5, (3, run.experts))
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for number in range(traces):
            trace = random_trace(run, tokens, seed=number, heads=None, router_logits=None)
            # Gumbel noise: experts are drawn one after the other, by their popularity alone.
            logits_STE = popularity_SE[:, None] + rng.gumbel(0, 1, (3, tokens, run.experts))
            logits_STE += rng.normal(0, 0.5, (3, 1, run.experts))  # each trace's taste
            which_T = rng.integers(0, 4, tokens)
            for number, members in enumerate(committees):
                logits_STE[1, np.ix_(which_T == number, members)[0], members] += 4
            routing = route(run, (logits_STE / 4).astype(np.float16).astype(np.float32))
            writer.commit(run_id, [replace(trace, routing=routing)])
    return Store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with written(tmp_path_factory.mktemp("s") / "s", PLANTED) as store:
        yield store


def test_planted_committees_are_found_whole_and_nowhere_else(store):
    frame = committees(store, THINK)
    assert sorted(frame["members"]) == sorted(PLANTED)
    assert set(frame["layer"]) == {2}
    assert (frame["stability"] == 1).all()
    assert (frame["lift"] > 2).all()
    np.testing.assert_allclose(frame["held_out"], frame["lift"], rtol=0.15)
    assert frame["size"].tolist() == [len(members) for members in frame["members"]]
    assert frame.attrs["traces"] == 10 and frame.attrs["source"] == "sums"


@pytest.mark.parametrize("seed", range(5))
def test_where_nothing_is_there_no_committee_is_found(tmp_path, seed):
    """Experts of unequal loads in traces of unequal tastes, otherwise drawn apart."""
    with written(tmp_path / "s", (), seed=seed) as store:
        assert committees(store, seed=seed).empty


def test_numbers_are_those_of_its_sql_and_of_plain_counting(store):
    frame = committees(store, f"{THINK} and pos >= 0")
    pairs = store.sql(frame.attrs["sql"]).df()
    counted = {(r.layer, r.expert, r.other): r.n for r in pairs.itertuples()}
    rows = store.sql(
        f"""select layer, expert_ids from (select trace_id, layer, pos, expert_ids from routing)
        join token_context using (trace_id, pos) where {THINK}"""
    ).fetchall()
    plain, loads = Counter(), Counter()
    for layer, ids in rows:
        plain.update((layer, a, b) for a, b in combinations(sorted(ids), 2))
        loads.update((layer, expert) for expert in ids)
    assert counted == plain
    for row in frame.itertuples():
        inside = [plain[row.layer, a, b] for a, b in combinations(row.members, 2)]
        assert row.n == sum(inside) and row.lift == pytest.approx(row.n / row.expected)
        total = sum(n for (layer, _), n in loads.items() if layer == row.layer)
        assert row.share == pytest.approx(sum(loads[row.layer, e] for e in row.members) / total)
    assert frame.attrs["source"] == "scan"


def test_chance_keeps_what_the_data_sum_to():
    rng = np.random.default_rng(0)
    n_UE, tokens_U = rng.integers(0, 20, (5, 12)), rng.integers(60, 90, 5)
    chance_EE = met_by_chance(n_UE, tokens_U)
    assert chance_EE[2, 7] == pytest.approx((n_UE[:, 2] * n_UE[:, 7] / tokens_U).sum())
    pairs_EE = np.triu(rng.poisson(9, (12, 12)), 1)
    pairs_EE = (pairs_EE + pairs_EE.T).astype(float)
    between_GG = pairs_EE.reshape(3, 4, 3, 4).sum(axis=(1, 3))
    for limit in (None, between_GG):
        found_EE = fitted(chance_EE, pairs_EE.sum(axis=1), limit)
        np.testing.assert_allclose(found_EE.sum(axis=1), pairs_EE.sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(found_EE, found_EE.T)
        assert (np.diag(found_EE) == 0).all()
    np.testing.assert_allclose(found_EE.reshape(3, 4, 3, 4).sum(axis=(1, 3)), between_GG, rtol=1e-4)


def test_with_equal_loads_chance_is_that_of_drawing_without_putting_back():
    E, k, N = 10, 4, 1_000
    chance_EE = met_by_chance(np.full((1, E), N * k // E), np.array([N]))
    found_EE = fitted(chance_EE, np.full(E, (k - 1.0) * N * k / E))
    assert found_EE[0, 1] == pytest.approx(N * k * (k - 1) / (E * (E - 1)))


def test_what_the_limit_to_groups_brings_together_is_left_out_on_request(tmp_path):
    run = random_run(
        experts=24, groups=4, groups_kept=2, k=4, record=("routing",), heads=1,
        expert_bias=np.zeros((3, 24), np.float32),
    )  # fmt: skip
    with written(tmp_path / "s", (), run=run, traces=16, tokens=200) as store:
        plain, within = committees(store), committees(store, within="group")
    assert len(plain) > len(within)
    assert {tuple(groups) for groups in plain["groups"]} == {(0,), (1,), (2,), (3,)}
    assert (within["lift"] < 1.5).all()


def test_phases_are_told_apart_where_nothing_names_them(store):
    frame = committees(store)
    assert set(frame["phase"]) <= {"prompt", "think", "answer"}
    own = frame[frame["phase"] == "think"].drop(columns="phase").reset_index(drop=True)
    assert own["members"].tolist() == committees(store, THINK)["members"].tolist()


def test_traces_of_real_words_are_more_than_chance(tmp_path):
    """Words have tastes in `planted`: experts that serve one word meet."""
    with Store(planted(tmp_path / "s")) as store:
        assert (committees(store, THINK, least=2)["lift"] > 1).all()


@pytest.mark.parametrize(
    ("where", "settings", "error", "message"),
    [
        (THINK, {"within": "token"}, ConfigError, "it is 'group' or None"),
        (THINK, {"least": 1}, ConfigError, "least = 1"),
        (f"{THINK} and trace_id = 1", {}, StoreError, "from 1 trace"),
        ("phase = 'nothing'", {}, StoreError, "no token is selected"),
        ("phaze = 'think'", {}, ConfigError, "Did you mean 'phase'"),
    ],
)
def test_what_cannot_be_answered_is_refused(store, where, settings, error, message):
    with pytest.raises(error, match=message):
        committees(store, where, **settings)


def test_one_expert_a_token_has_no_committees(tmp_path):
    run = random_run(k=1, record=("routing",), heads=1)
    with StoreWriter(tmp_path) as writer:
        traces = [random_trace(run, 30, seed=s, heads=None, router_logits=None) for s in range(3)]
        writer.commit(writer.start_run(run), traces)
    with Store(tmp_path) as store, pytest.raises(ConfigError, match="choose one expert"):
        committees(store, THINK)
