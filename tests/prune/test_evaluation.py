"""Masked evaluation against the exported checkpoint, and curves with their cliffs."""

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from golden_data import FOLDER
from pruned import random_plan

import ringlens as rl
from ringlens.analysis.statistics.share import wilson
from ringlens.cli.main import main
from ringlens.errors import ConfigError, RinglensError
from ringlens.prune import ablations, cliffs, concentration, evaluate, export, pruning_curve

PROBLEMS = rl.problems("countdown", n=6)[4:]  # not those of the store


def test_the_masked_model_is_the_exported_one(lens, tmp_path):
    plan = random_plan("ring-nano", 3, seed=5)
    frame = evaluate(lens, plan, PROBLEMS[:2], max_new_tokens=40)
    assert frame["criterion"].tolist() == ["none", "random"]
    assert frame["experts_left"].tolist() == [32, 12]
    export(plan, tmp_path / "small")
    small = rl.load(tmp_path / "small", dtype="float32")
    full = rl.capture(lens, PROBLEMS[:2], tmp_path / "full", max_new_tokens=40)
    losses, agreed = [], []
    again = rl.replay(small, full, tmp_path / "again")
    for trace_id in (1, 2):
        tokens = full.trace(trace_id).tokens()
        ids = torch.tensor([tokens["token_id"].tolist()])
        with torch.inference_mode():
            told = small.model(ids).logits[0].log_softmax(-1)
        written = np.flatnonzero(np.array(tokens["phase"]) != "prompt")
        losses += [-float(told[pos - 1, ids[0, pos]]) for pos in written]
        for layer, kept in plan.kept.items():
            before = full.trace(trace_id).routing(layer)["expert_ids"]
            after = again.trace(trace_id).routing(layer)["expert_ids"]
            for old, new in zip(before.tolist(), after.tolist(), strict=True):
                chosen = {kept[e] for e in new}
                agreed += [e in chosen for e in old if e in kept]
    assert frame["loss"][1] == pytest.approx(np.mean(losses), rel=1e-4)
    assert frame["agreement"][1] == pytest.approx(np.mean(agreed), abs=1e-3)
    own = rl.capture(small, PROBLEMS[:2], tmp_path / "own", max_new_tokens=40)
    right, thought = own.sql(
        "select count(*) filter (correct), avg(n_think) from traces"
    ).fetchall()[0]
    assert (frame["accuracy"][1], frame["thought"][1]) == (right / 2, pytest.approx(thought))
    assert frame["loss_increase"][0] == 0 < frame["loss_increase"][1]
    assert frame["agreement"][0] == pytest.approx(1, abs=2e-3)  # decoding rounds otherwise


def test_keeping_all_changes_nothing(lens):
    plan = random_plan("ring-nano", 8)
    full, same = evaluate(lens, plan, PROBLEMS[:1], max_new_tokens=12).to_dict("records")
    for name, value in full.items():
        assert name == "criterion" or value == same[name] or np.isnan([value, same[name]]).all()


def test_ablating_what_a_plan_drops_is_the_exported_model(lens, tmp_path):
    plan = random_plan("ring-nano", 2, seed=4)
    export(plan, tmp_path / "small")
    small, ids = rl.load(tmp_path / "small", dtype="float32"), torch.arange(4, 44).view(2, 20)
    with torch.inference_mode():
        with lens.intervene(*ablations(plan)):
            found = lens.model(ids).logits
        torch.testing.assert_close(found, small.model(ids).logits)
        assert not torch.allclose(found, lens.model(ids).logits, atol=1e-2)
    assert ablations(random_plan("ring-nano", 8)) == ()


def test_a_curve_has_the_full_model_and_a_row_a_plan(lens, store):
    curve = pruning_curve(
        lens, store, PROBLEMS[:1], criteria=["random", "reap"], keep=[0.5, 8], max_new_tokens=12
    )
    assert curve["criterion"].tolist() == ["none", "random", "random", "reap", "reap"]
    assert curve["keep"].tolist() == [1.0, 0.5, 0.25, 0.5, 0.25]
    uneven = concentration(store)
    assert curve["gini"].tolist()[1:] == [0.0, 0.0, uneven["reap"], uneven["reap"]]
    assert uneven["reap"] > uneven["frequency"] > 0
    assert (curve["carried"].diff()[[2, 4]] < 0).all()
    found = cliffs(curve)
    assert found["criterion"].tolist() == ["random", "reap"]


def test_cliffs_are_where_the_loss_rises_most():
    curve = pd.DataFrame(
        [("none", 1.0, 0.0, np.nan), ("a", 0.75, 0.01, 0.3), ("a", 0.5, 0.02, 0.3),
         ("a", 0.25, 1.5, 0.3), ("b", 0.75, 0.4, 0.1), ("b", 0.5, 0.45, 0.1)],
        columns=["criterion", "keep", "loss_increase", "gini"],
    )  # fmt: skip
    a, b = cliffs(curve).to_dict("records")
    assert (a["holds"], a["cliff_above"], a["cliff_below"]) == (0.5, 0.5, 0.25)
    assert (b["holds"], b["cliff_above"], b["cliff_below"]) == (1.0, 1.0, 0.75)
    assert (a["rise"], b["rise"]) == (pytest.approx(1.48), pytest.approx(0.4))
    assert cliffs(curve, tolerance=0.42)["holds"].tolist() == [0.5, 0.75]
    with pytest.raises(ConfigError, match="no table of pruning_curve"):
        cliffs(curve[["keep"]])


def test_intervals_of_a_share():
    assert wilson(0, 0) != wilson(0, 0)  # NaN
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1


def test_what_cannot_be_evaluated_is_refused(lens, store):
    plan = random_plan("ring-nano", 4)
    with pytest.raises(ConfigError, match="at least one plan and one problem"):
        evaluate(lens, plan, [])
    with pytest.raises(ConfigError, match="is about another model than ring-nano"):
        evaluate(lens, random_plan(FOLDER, 2), PROBLEMS[:1])
    with pytest.raises(RinglensError, match="unknown criterion"):
        pruning_curve(lens, store, PROBLEMS[:1], criteria=["best"])


def test_the_command_evaluates_on_problems_that_are_not_in_the_store(store):
    def run(*words):
        return CliRunner().invoke(main, ["prune", "ring-nano", *map(str, words)])

    path = store.address
    done = run(path, "--keep", "0.5", "--evaluate", 1, "--max-new-tokens", 8)
    assert done.exit_code == 0, done.output
    assert "on 1 problems" in done.output and "loss_increase" in done.output
    done = run(path, "--curve", "0.5", "--criterion", "random", "--evaluate", 1,
               "--max-new-tokens", 8)  # fmt: skip
    assert done.exit_code == 0 and "cliff_below" in done.output, done.output
    for words, said in (
        ((path, "--keep", "0.5", "--evaluate", 10**6), "problems that are not in the store"),
        ((path, "--curve", "0.5", "--keep", "0.5"), "a curve takes STORE"),
        ((path, "--keep", "0.5", "--criterion", "all"), "a plan has one criterion"),
    ):
        wrong = run(*words)
        assert wrong.exit_code == 1 and said in " ".join(wrong.output.split())
