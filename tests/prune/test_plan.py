"""Plans of pruning: how many experts each group keeps, which ones, and the file of a plan."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruned import random_plan
from safetensors.torch import load_file, save_file

import ringlens as rl
from ringlens import analysis
from ringlens.errors import ConfigError, StoreError
from ringlens.model.loading import locate, read_config
from ringlens.model.ring.sizes import router_rule
from ringlens.prune.criteria import CRITERIA, pruning_plan
from ringlens.prune.plan import PruningPlan, fewest_per_group, kept_per_group, read_plan

RULE = router_rule(read_config(locate("ring-nano")))  # 4 of 32 experts, of 2 of 4 groups
LARGE = replace(RULE, experts=256, experts_per_token=8, groups=8, groups_kept=4)


@pytest.mark.parametrize(
    ("keep", "rule", "per_group"),
    [(0.5, RULE, 4), ("50%", RULE, 4), (16, RULE, 4), ("8", RULE, 2), (1.0, RULE, 8),
     ("1/4", LARGE, 8), (128, LARGE, 16), ("0.0625", LARGE, 2)],
)  # fmt: skip
def test_shares_and_numbers_are_read(keep, rule, per_group):
    assert kept_per_group(keep, rule) == per_group


@pytest.mark.parametrize(
    ("keep", "rule", "said"),
    [
        (18, RULE, "18 experts a layer do not divide into 4 groups of equal size; keep 16 or 20"),
        (0.3, LARGE, "76.8 experts a layer do not divide into 8 groups.*keep 72 or 80"),
        (4, RULE, "leaves 4 of 32.*two experts rank a group: each group must keep 2"),
        (40, RULE, "leaves 40 of 32"),
        (0, RULE, "give a share"),
        ("150%", RULE, "give a share"),
        ("half", RULE, "give a share of the experts, such as 0.5"),
        ("1/0", RULE, "give a share"),
        ("nan", RULE, "give a share"),
        (-3, RULE, "give a share"),
    ],
)
def test_what_no_router_could_use_is_refused_with_the_numbers(keep, rule, said):
    with pytest.raises(ConfigError, match=said):
        kept_per_group(keep, rule)


@given(
    groups=st.sampled_from([1, 2, 4, 8]), size=st.integers(2, 40), data=st.data(),
    group_score=st.sampled_from(["none", "sum_of_two", "maximum"]),
)  # fmt: skip
def test_the_fewest_is_what_the_router_itself_accepts(groups, size, data, group_score):
    groups = 1 if group_score == "none" else groups
    kept = data.draw(st.integers(1, groups))
    k = data.draw(st.integers(1, min(kept * size, 12)))
    rule = replace(
        RULE, experts=groups * size, groups=groups, groups_kept=kept, experts_per_token=k,
        group_score=group_score,
    )  # fmt: skip
    least = fewest_per_group(rule)
    for per_group in range(1, size + 1):
        try:
            replace(rule, experts=groups * per_group)
            possible = True
        except ConfigError:
            possible = False
        assert possible == (per_group >= least)


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "ablation"])
def test_the_best_of_every_group_stay(store, criterion, monkeypatch):
    # ring-nano's largest outputs come from its last layers, where super experts are none.
    monkeypatch.setattr(analysis.load.expert_importance, "OF_LAYERS", 1.0)
    plan = pruning_plan("ring-nano", store, criterion, 0.5, seed=3)
    table = analysis.expert_importance(store).set_index(["layer", "expert"])
    assert plan.layers == tuple(range(1, 8)) and (plan.left, plan.per_group) == (16, 4)
    assert plan.protected and all(
        set(ids) <= set(plan.kept[layer]) for layer, ids in plan.protected.items()
    )
    column = CRITERIA[criterion].column
    for layer, kept in plan.kept.items() if column else ():
        score = table.loc[layer][column].to_numpy()
        for first in range(0, 32, 8):
            inside = [e for e in kept if first <= e < first + 8]
            best = np.argsort(-score[first : first + 8], kind="stable")[:4] + first
            assert set(best) - set(inside) == set() or set(inside) & set(plan.protected[layer])
        n = table.loc[layer]["n"]
        assert plan.carried[layer] == pytest.approx(n[list(kept)].sum() / n.sum())
    assert PruningPlan.from_json(plan.to_json()) == plan
    other = pruning_plan("ring-nano", store, criterion, 0.5, seed=4)
    assert (other.kept == plan.kept) == (criterion != "random")


def test_a_plan_says_what_it_is(store):
    said = repr(pruning_plan("ring-nano", store, "reap", 0.5, where="phase = 'think'"))
    assert "16 of 32 experts a layer stay (4 of 8 in each of 4 groups)" in said
    assert "where phase = 'think'" in said and "kept experts had" in said
    assert "super experts that stay: " in said


def test_importance_is_what_plain_sums_give(store):
    table = analysis.expert_importance(store, "phase = 'think'")
    rows = store.sql(
        "select o.layer, o.expert_ids, r.weights, norms, peaks, contribution "
        "from expert_outputs o join routing r using (trace_id, layer, pos) "
        "join tokens using (trace_id, pos) where phase = 'think'"
    ).fetchall()
    sums = {}
    for layer, ids, weights, norms, peaks, turned in rows:
        for expert, w, f, peak in zip(ids, weights, norms, peaks, strict=True):
            each = sums.setdefault((layer, expert), [0, 0.0, 0.0, 0.0, 0.0])
            each[0] += 1
            each[1] += w * f
            each[2] += f
            each[3] += w * f * max(turned, 0)
            each[4] = max(each[4], peak)
    assert len(table) == 7 * 32
    for row in table.itertuples():
        n, weighed, norm, easy, peak = sums.get((row.layer, row.expert), [0] * 5)
        found = (row.n, row.reap, row.ean, row.easy_ep, row.peak)
        np.testing.assert_allclose(found, (n, weighed / max(n, 1), norm, easy, peak), rtol=1e-6)
    peaks = table["peak"].to_numpy()
    wanted = (
        (table["layer"] < 6) & (peaks > np.percentile(peaks, 99.5)) & (peaks > peaks.max() / 10)
    )
    assert (table["super_expert"] == wanted).all()


def test_a_planted_super_expert_is_found_and_stays(store):
    layer, peak = np.repeat(np.arange(8), 40), np.ones(320)
    peak[[45, 300]] = 50.0, 60.0  # layers 1 and 7
    found = analysis.load.expert_importance.super_experts(layer, peak, 8)
    assert np.flatnonzero(found).tolist() == [45]


def test_what_a_store_cannot_tell_is_refused(store, tmp_path):
    lens = rl.load("ring-nano")
    bare = rl.capture(
        lens, rl.problems("countdown", n=1), tmp_path / "bare", max_new_tokens=8,
        record=("routing",),
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"'reap' needs what the experts gave"):
        pruning_plan("ring-nano", bare, "reap", 0.5)
    plan = pruning_plan("ring-nano", bare, "frequency", 0.5)
    assert plan.protected is None and "not looked for" in repr(plan)
    assert PruningPlan.from_json(plan.to_json()) == plan
    few = rl.capture(
        lens, rl.problems("countdown", n=1), tmp_path / "few", max_new_tokens=8,
        record=("routing@2-4",),
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"no routing of layers \[1, 5, 6, 7\]"):
        pruning_plan("ring-nano", few, "frequency", 0.5)
    with pytest.raises(ConfigError, match="Did you mean 'frequency'"):
        pruning_plan("ring-nano", store, "frequncy", 0.5)
    rl.capture(
        lens, rl.problems("countdown", n=2), tmp_path / "bare", max_new_tokens=8,
        record=("routing", "expert_outputs"),
    ).close()  # fmt: skip
    with pytest.raises(StoreError, match=r"of .* choices .* have outputs"):
        pruning_plan("ring-nano", rl.Store(tmp_path / "bare"), "reap", 0.5)


def another_of_the_same_shape(folder):
    """ring-nano with one selection bias of one router moved."""
    shutil.copytree(locate("ring-nano"), folder)
    for file in folder.glob("*.safetensors"):
        weights = load_file(file)
        for name in (name for name in weights if name.endswith("layers.3.mlp.gate.expert_bias")):
            weights[name][5] += 0.05
            save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_a_store_of_another_model_is_refused(store, tmp_path):
    from golden_data import FOLDER

    other = another_of_the_same_shape(tmp_path / "other")
    with pytest.raises(StoreError, match="it is of another model"):
        pruning_plan(str(FOLDER), store, "reap", 0.5)
    with pytest.raises(StoreError, match="'ring-nano': its routers have other selection biases"):
        pruning_plan(str(other), store, "reap", 0.5)


def test_a_model_is_told_by_its_biases_and_else_by_its_name(store, tmp_path):
    named = pruning_plan("ring-nano", store, "frequency", 0.5)
    same = pruning_plan(locate("ring-nano"), store, "frequency", 0.5)
    assert (same.kept, same.unknown) == (named.kept, ())
    shutil.copy(f"{locate('ring-nano')}/config.json", tmp_path)  # no weights to look into
    unsure = pruning_plan(str(tmp_path), store, "frequency", 0.5)
    assert unsure.unknown == ("ring-nano",)
    assert "runs of 'ring-nano': whether that is this model cannot be told" in repr(unsure)
    assert PruningPlan.from_json(unsure.to_json()) == unsure


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v | {"format": 2}, "format 2"),
        (lambda v: {k: x for k, x in v.items() if k != "kept"}, "kept"),
        (lambda v: v | {"kept": {"1": [0, 1]}}, "keeps .* experts of its groups"),
        (lambda v: v | {"kept": {"1": [1, 0, 8, 9, 16, 17, 24, 25]}}, "ascending"),
        (lambda v: v | {"kept": {"1": [0.5]}}, "no whole number"),
        (lambda v: v | {"kept": [1]}, "no pruning plan"),
        (lambda v: v | {"experts": 0}, "0 experts in 4 groups"),
        (lambda v: v | {"groups": 5}, "32 experts in 5 groups"),
        (lambda v: v | {"protected": {"1": [99]}}, r"protects experts \[99\]"),
        (lambda v: v | {"protected": {"40": [1]}}, r"layers \[40\] in 'protected'"),
        (lambda v: v | {"carried": {"9": 0.5}}, r"layers \[9\] in 'carried'"),
        (lambda v: v | {"merged": {"8": {"1": [0, 0.5]}}}, r"layers \[8\] in 'merged'"),
        (lambda v: v | {"merged": {"1": {"99": [0, 0.5]}}}, "merges expert 99"),
        (lambda v: v | {"unknown": "ring"}, "no list of names"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, change, said):
    plan = random_plan("ring-nano", 2)
    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    values = json.loads(plan.to_json())
    (tmp_path / "plan.json").write_text(json.dumps(change(values)))
    with pytest.raises(ConfigError, match=said):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="cannot read the plan"):
        read_plan(tmp_path / "nowhere.json")
