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
from ringlens.probes.ablation import ablate, against_random, effects
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
    frame = ablate(lens, store, layers=[3, 5], experts=[0, 6, 17, 30], batch_size=4)
    assert len(frame) == 8 and (frame["traces"] == 2).all()
    table = frame.set_index(["layer", "expert"])
    for layer, expert in ((3, 6), (3, 17), (5, 0), (5, 30)):
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
        ablation, "_measure", lambda *given: asked.append(given[2:4]) or measure(*given)
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


def test_random_experts_of_equal_load_stand_beside():
    count = np.arange(20)
    frame = pd.DataFrame(
        {"layer": 1, "expert": count, "n": count, "loss": np.where(count == 10, 1.0, 0.01 * count)}
    )
    found = against_random(frame, [(1, 10)])
    assert found["effect"] == 1.0
    assert found["p"] == pytest.approx(1 / 1001)
    assert 0.06 <= found["low"] <= found["random"] <= found["high"] <= 0.14
    plain = against_random(frame, [(1, 3), (1, 15)])
    assert plain["effect"] == pytest.approx(0.09) and plain["p"] > 0.05
    with pytest.raises(ConfigError, match="were not measured"):
        against_random(frame, [(2, 3)])


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

    done = run("--layers", "3", "--expert-ids", "4-7", "--trace", "1", "--against", "3/6")
    assert done.exit_code == 0, done.output
    assert "disagreement" in done.output and "random experts of equal load" in done.output
    for words, said in (
        (("--layers", "x"), "give numbers and ranges"),
        (("--against", "3"), "give layer/expert"),
    ):
        wrong = run(*words)
        assert wrong.exit_code == 1 and said in wrong.output
