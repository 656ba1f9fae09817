"""Interventions on models whose weights are quantised, or away on the disk."""

import fp8_ring
import parallel_ring
import plain_interventions
import pytest
import tiny_lens
import torch

import ringlens as rl
from ringlens.observe.points import selection_bias

ACTS = [rl.Ablate(2, (3, 7)), rl.Force(3, 5), rl.Scale(3, 5, 0.5), rl.AblateHead(2, 1)]
TEXT = tiny_lens.prompt(74, 276, 166, 285, 103, 65)
ROUTER = ("router_logits", "router_choice", "router_weights")


def check_intervened(lens):
    """Each router's choice is that of the definition; afterwards the model is what it was."""
    plain, _ = lens.run_with_cache(TEXT, [])
    with lens.intervene(*ACTS) as effect:
        found, cache = lens.run_with_cache(
            TEXT, [*[(name, layer) for layer in (2, 3) for name in ROUTER], ("head_out", 2)]
        )
    assert not cache["head_out", 2][:, :, 1].any()
    for layer in (2, 3):
        acts = [act for act in ACTS if layer in act.layers]
        bias = selection_bias(lens.model, layer).tolist()
        logits, ids, weights = (cache[name, layer][0] for name in ROUTER)
        for z, chosen, w in zip(logits.float().tolist(), ids.tolist(), weights, strict=True):
            wanted = plain_interventions.routed(lens.router, z, bias, acts)
            assert set(chosen) == wanted.keys()
            assert w.sum().item() == pytest.approx(sum(wanted.values()), rel=1e-5)
    assert [change.tokens for change in effect.changes] == [6, 6, 6, 6]
    assert not torch.equal(found, plain)
    assert torch.equal(lens.run_with_cache(TEXT, [])[0], plain)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_models_are_intervened(quantization, tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = parallel_ring.save(tmp_path / "tiny", dtype="bfloat16")
    check_intervened(rl.load(folder, quantization=quantization))


def test_a_checkpoint_in_fp8_is_intervened(tmp_path):
    (tmp_path / "fp8").mkdir()
    fp8_ring.save(tmp_path / "fp8", tmp_path / "plain")
    check_intervened(rl.load(tmp_path / "fp8", quantization="fp8", device="cpu"))


@pytest.mark.parametrize("experts", ["fused", "modules"])
def test_models_with_layers_on_the_disk_are_intervened(experts, tmp_path):
    folder = parallel_ring.save(tmp_path / "tiny")
    units = ["model.word_embeddings", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys(units, "cpu") | {
        f"model.layers.{i}": "disk" if i in (2, 3) else "cpu" for i in range(4)
    }
    lens = rl.load(folder, device_map=places, offload_folder=tmp_path / "weights", experts=experts)
    assert next(lens.model.model.layers[2].parameters()).is_meta
    check_intervened(lens)
