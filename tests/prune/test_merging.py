"""Dropped experts in kept ones: who joins whom, how neurons are matched, what is written."""

from dataclasses import replace

import fp8_ring
import numpy as np
import pytest
import torch
from pruned import random_plan
from safetensors.torch import load_file, save_file

import ringlens as rl
from ringlens import analysis
from ringlens.data import path as bundled
from ringlens.errors import ConfigError
from ringlens.model.loading import load_model
from ringlens.prune import PruningPlan, evaluate, export, pruning_plan, with_merging
from ringlens.prune.merging import matched

PROBLEMS = rl.problems("countdown", n=5)[4:]  # not those of the store


@pytest.fixture(scope="module")
def plan(store):
    return with_merging(pruning_plan("ring-nano", store, "reap", 0.5), store)


def tensors_of(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def ffn(tensors, prefix, x):
    gate, up, down = (tensors[f"{prefix}.{part}_proj.weight"].float() for part in
                      ("gate", "up", "down"))  # fmt: skip
    return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))


def test_each_joins_the_likest_of_its_group(plan, store):
    table = analysis.expert_importance(store).set_index(["layer", "expert"])
    tensors = tensors_of(bundled("ring-nano"))
    for layer, joins in plan.merged.items():
        assert sorted(joins) == list(plan.dropped(layer))
        rows = tensors[f"model.layers.{layer}.mlp.gate.weight"].float()
        rows = rows - rows.mean(dim=0)
        gave = table.loc[layer].eval("n * reap").to_numpy()
        for expert, (to, share) in joins.items():
            near = [k for k in plan.kept[layer] if k // 8 == expert // 8]
            alike = [float(torch.cosine_similarity(rows[expert], rows[k], dim=0)) for k in near]
            assert to == near[int(np.argmax(alike))]
            family = [to, *(e for e, (k, _) in joins.items() if k == to)]
            assert share == pytest.approx(gave[expert] / gave[family].sum())
        for kept in plan.kept[layer]:
            assert sum(plan.members(layer, kept).values()) == pytest.approx(1)
    assert PruningPlan.from_json(plan.to_json()) == plan
    assert "dropped experts merge into kept ones" in repr(plan)


def test_neurons_in_another_order_are_matched():
    generator = torch.Generator().manual_seed(3)
    first = torch.nn.functional.normalize(torch.randn(40, 30, generator=generator), dim=1)
    order = torch.randperm(40, generator=generator)
    noise = 0.01 * torch.randn(40, 30, generator=generator)
    other = torch.nn.functional.normalize(first[order] + noise, dim=1)
    assert torch.equal(order[matched(first, other)], torch.arange(40))
    equal = torch.ones(5, 3) / 3**0.5  # all alike: still each once
    assert sorted(matched(equal, equal).tolist()) == list(range(5))


def test_an_expert_merged_with_its_own_shuffle_is_itself(tmp_path):
    """Whatever the order of its neurons, and whatever the share."""
    plain = tmp_path / "plain"
    plain.mkdir(), (tmp_path / "fp8").mkdir()
    fp8_ring.save(tmp_path / "fp8", plain)
    tensors = load_file(plain / "model.safetensors")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    for part in ("gate", "up", "down"):
        name = "model.layers.2.mlp.experts.{}." + f"{part}_proj.weight"
        tensors[name.format(1)] = tensors[name.format(0)].index_select(int(part == "down"), order)
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    kept = dict.fromkeys((1, 2, 3), (0, 2, 4, 5, 8, 9, 12, 13))
    plan = PruningPlan(
        str(plain), "random", 16, 4, kept, None, "true", 0, 0, {}, {2: {1: (0, 0.3)}}
    )
    export(plan, tmp_path / "merged")
    old, new = (
        load_file(plain / "model.safetensors"),
        load_file(tmp_path / "merged/model.safetensors"),
    )
    for part in ("gate", "up", "down"):
        name = f"model.layers.2.mlp.experts.0.{part}_proj.weight"
        torch.testing.assert_close(new[name], old[name])
        untouched = f"model.layers.1.mlp.experts.0.{part}_proj.weight"
        assert torch.equal(new[untouched], old[untouched])


def test_fp8_is_averaged_and_packed_again(tmp_path):
    folder, plain = tmp_path / "fp8", tmp_path / "plain"
    folder.mkdir(), plain.mkdir()
    fp8_ring.save(folder, plain)
    kept = dict.fromkeys((1, 2, 3), (0, 2, 4, 5, 8, 9, 12, 13))
    facts = ("random", 16, 4, kept, None, "true", 0, 0, {}, {2: {1: (0, 0.4), 3: (0, 0.1)}})
    export(PruningPlan(str(folder), *facts), tmp_path / "a")
    export(PruningPlan(str(plain), *facts), tmp_path / "b")
    packed, whole = (load_model(str(tmp_path / n), dtype="float32")[0] for n in ("a", "b"))
    for (name, a), (_, b) in zip(packed.named_parameters(), whole.named_parameters(), strict=True):
        torch.testing.assert_close(
            a.detach(), b.detach(), rtol=0.08, atol=float(b.detach().abs().max()) / 15, msg=name
        )
    stored = load_file(tmp_path / "a" / "model.safetensors")
    name = "model.layers.2.mlp.experts.0.up_proj.weight"
    assert stored[name].dtype == torch.float8_e4m3fn
    assert stored[f"{name}_scale_inv"].shape == (4, 4)


def test_a_merged_checkpoint_is_evaluated_beside_the_masked_model(lens, plan, tmp_path):
    export(plan, tmp_path / "merged")
    export(replace(plan, merged=None), tmp_path / "pruned")
    frame = evaluate(
        lens, plan, PROBLEMS, max_new_tokens=20,
        checkpoints=[tmp_path / "pruned", tmp_path / "merged"],
    )  # fmt: skip
    assert frame["criterion"].tolist() == ["none", "reap", "reap", "reap + merge"]
    masked, pruned, merged = frame.iloc[1], frame.iloc[2], frame.iloc[3]
    assert pruned["loss"] == pytest.approx(masked["loss"], rel=1e-3)
    assert pruned["agreement"] == pytest.approx(masked["agreement"], abs=2e-3)
    assert merged["loss"] != pytest.approx(masked["loss"], rel=1e-3)
    with pytest.raises(ConfigError, match=r"has no pruning\.json"):
        evaluate(lens, [], PROBLEMS, checkpoints=[bundled("ring-nano")])


def test_a_plan_that_merges_into_what_goes_is_refused():
    plan = random_plan("ring-nano", 4)
    gone, other = plan.dropped(1)[:2]
    for joins in ({gone: (other, 0.5)}, {plan.kept[1][0]: (plan.kept[1][1], 0.5)},
                  {gone: (plan.kept[1][0], 1.5)}):  # fmt: skip
        with pytest.raises(ConfigError, match="merges expert"):
            replace(plan, merged={1: joins})
