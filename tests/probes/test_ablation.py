"""Effects of single experts against plain forwards, kept in the store, beside their counts."""

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import ringlens as rl
from ringlens.cli.main import main
from ringlens.errors import ConfigError, StoreError
from ringlens.interventions import Ablate
from ringlens.probes import ablation
from ringlens.probes.ablation import ablate, ablate_set, effects
from ringlens.prune import concentration, pruning_plan
from ringlens.store.check.check import check

PROBLEMS = rl.problems("countdown", n=2)


@pytest.fixture(scope="module")
def lens():
    return rl.load("ring-nano")


@pytest.fixture
def store(lens, tmp_path):
    return rl.capture(
        lens, PROBLEMS, tmp_path / "store", max_new_tokens=24, record=("routing",)
    )  # fmt: skip


def losses(lens, ids, first, *acts):
    with torch.inference_mode():
        if acts:
            with lens.intervene(*acts):
                logits = lens.model(ids).logits[0]
        else:
            logits = lens.model(ids).logits[0]
    told = logits.log_softmax(-1)[first:-1].gather(-1, ids[0, first + 1 :, None])
    return -told.squeeze(-1).double()


def test_effects_are_those_of_plain_forwards(lens, store):
    frame = ablate(lens, store, layers=[3, 5], experts=[9, 10, 15, 27], batch_size=4)
    assert len(frame) == 8 and (frame["traces"] == 2).all()
    table = frame.set_index(["layer", "expert"])
    for layer, expert in ((3, 9), (3, 15), (5, 10), (5, 27)):
        found = []
        for trace_id in (1, 2):
            tokens = store.trace(trace_id).tokens()
            ids = torch.tensor([tokens["token_id"].tolist()])
            first = int(np.flatnonzero(np.array(tokens["phase"]) != "prompt")[0])
            act = Ablate(layer, expert, span=(first, None))
            rise = losses(lens, ids, first, act) - losses(lens, ids, first)
            found.append(float(rise.mean()))
        assert table.loc[(layer, expert), "loss"] == pytest.approx(np.mean(found), abs=2e-5)
        assert table.loc[(layer, expert), "low"] == pytest.approx(min(found), abs=2e-5)
    assert frame["loss"].is_monotonic_decreasing and frame["loss"][0] > 1e-4
    counts = store.sql(
        "select layer, expert, count(*) from router_choices join tokens using (trace_id, pos) "
        "where phase <> 'prompt' group by all"
    ).fetchall()
    for layer, expert, n in counts:
        if (layer, expert) in table.index:
            assert table.loc[(layer, expert), "n"] == n
    assert set(frame["rank_effect"]) == {1, 2, 3, 4}
    assert (frame["disagreement"] == frame["rank_count"] - frame["rank_effect"]).all()


def test_it_goes_on_where_it_was_and_measures_nothing_twice(lens, store, monkeypatch):
    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(lens, store, layers=[3], experts=[1, 6], on_progress=stop)
    with rl.Store(store.address) as half:
        assert half.sql("select distinct trace_id from probes").fetchall() == [(1,)]
    asked, measure = [], ablation._measure
    monkeypatch.setattr(
        ablation,
        "_measure",
        lambda *given: (
            asked.append((given[2], [(a.layers[0], *a.ids) for (a,) in given[3]]))
            or measure(*given)
        ),
    )
    with rl.Store(store.address) as half:
        frame = ablate(lens, half, layers=[3], experts=[1, 6])
    assert asked == [(2, [(3, 1), (3, 6)])]
    with rl.Store(store.address) as whole:
        more = ablate(lens, whole, layers=[3], experts=[1, 6, 9], traces=[1, 2])
    assert asked[1:] == [(1, [(3, 9)]), (2, [(3, 9)])]
    kept = more[more["expert"] != 9].reset_index(drop=True)
    pd.testing.assert_series_equal(kept["loss"], frame["loss"])
    with rl.Store(store.address) as after:
        assert check(after).findings == []
        pd.testing.assert_frame_equal(effects(after), more)


def test_a_set_is_left_out_together_beside_random_ones_of_equal_load(lens, store):
    named = [(3, 1), (3, 6), (5, 30)]
    frame = ablate_set(lens, store, named, random_sets=5, batch_size=4)
    assert frame["set"][0] == "3/1 3/6 5/30" and len(frame) == 6
    found = []
    for trace_id in (1, 2):
        tokens = store.trace(trace_id).tokens()
        ids = torch.tensor([tokens["token_id"].tolist()])
        first = int(np.flatnonzero(np.array(tokens["phase"]) != "prompt")[0])
        span = (first, None)
        acts = Ablate(3, (1, 6), span=span), Ablate(5, 30, span=span)
        rise = losses(lens, ids, first, *acts) - losses(lens, ids, first)
        found.append(float(rise.mean()))
    assert frame["loss"][0] == pytest.approx(np.mean(found), abs=2e-5)
    assert frame.attrs["p"] == (frame["loss"] >= frame["loss"][0]).mean() >= 1 / 6
    count = effects_of(store)
    for words in frame["set"][1:]:
        drawn = [tuple(map(int, word.split("/"))) for word in words.split()]
        assert [layer for layer, _ in drawn] == [3, 3, 5]
        assert len(set(drawn) | set(named)) == 6
        for (layer, expert), (_, own) in zip(drawn, named, strict=True):
            near = sorted(
                abs(count.get((layer, e), 0) - count.get((layer, own), 0)) for e in range(32)
            )
            assert abs(count.get((layer, expert), 0) - count.get((layer, own), 0)) <= near[10]
    again = ablate_set(lens, store, named, random_sets=5, batch_size=16)
    assert again["set"].tolist() == frame["set"].tolist()
    np.testing.assert_allclose(again["loss"], frame["loss"], atol=2e-5)
    with pytest.raises(ConfigError, match=r"no layer or expert \[99\]"):
        ablate_set(lens, store, [(3, 99)])
    with pytest.raises(ConfigError, match="no other expert to compare"):
        ablate_set(lens, store, [(3, e) for e in range(32)])


def effects_of(store):
    rows = store.sql(
        "select layer, expert, count(*) from router_choices join tokens using (trace_id, pos) "
        "where phase <> 'prompt' group by all"
    ).fetchall()
    return {(layer, expert): n for layer, expert, n in rows}


def test_a_plan_may_follow_what_was_measured(lens, tmp_path):
    store = rl.capture(
        lens, PROBLEMS[:1], tmp_path / "store", max_new_tokens=6, record=("routing",)
    )  # fmt: skip
    with pytest.raises(StoreError, match="224 of 224 experts have no measured effect"):
        pruning_plan("ring-nano", store, "ablation", 0.5)
    with pytest.raises(StoreError, match="holds no ablations"):
        effects(store)
    frame = ablate(lens, store, batch_size=113)
    assert len(frame) == 224
    with rl.Store(store.address) as measured:
        plan = pruning_plan("ring-nano", measured, "ablation", 0.25)
        assert "ablation" not in concentration(measured)
    effect = frame.set_index(["layer", "expert"])["loss"]
    for layer, kept in plan.kept.items():
        for first in range(0, 32, 8):
            inside = [effect[layer, e] for e in range(first, first + 8) if e in kept]
            outside = [effect[layer, e] for e in range(first, first + 8) if e not in kept]
            assert min(inside) >= max(outside)


def test_what_cannot_be_measured_is_refused(lens, store):
    for given, said in (
        ({"layers": [0]}, r"no layer or expert \[0\]"),
        ({"experts": [32]}, r"no layer or expert \[32\]"),
        ({"batch_size": 1}, "batch_size"),
    ):
        with pytest.raises(ConfigError, match=said):
            ablate(lens, store, **given)
    with pytest.raises(StoreError, match="no live traces"):
        ablate(lens, store, layers=[3], experts=[1], traces=[9])


def test_the_command_measures_and_compares(store):
    def run(*words):
        return CliRunner().invoke(main, ["ablate", "ring-nano", str(store.address), *words])

    done = run("--layers", "3", "--expert-ids", "4-7", "--trace", "1")
    assert done.exit_code == 0 and "disagreement" in done.output, done.output
    done = run("--against", "3/6,5/2", "--trace", "1")
    assert done.exit_code == 0 and "of 20 random sets of equal load" in done.output, done.output
    for words, said in (
        (("--layers", "x"), "give numbers and ranges"),
        (("--against", "3"), "give layer/expert"),
        (("--against", "3/1", "--layers", "3"), "--against names its experts"),
    ):
        wrong = run(*words)
        assert wrong.exit_code == 1 and said in wrong.output
