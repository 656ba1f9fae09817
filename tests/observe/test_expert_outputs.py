"""Norms and peaks of the chosen experts' outputs, against one expert at a time."""

import numpy as np
import pytest
import tiny_lens
import torch
from observed import observe
from safetensors import safe_open
from sessions import PROMPTS
from traced import state

import ringlens as rl
from ringlens.data import path as bundled
from ringlens.errors import ObservationError
from ringlens.model.expert_outputs import OutputWatch
from ringlens.model.ring.moe import BailingMoeV2Experts
from ringlens.observe.hooks import attach
from ringlens.observe.points import POINTS, module_at
from ringlens.store import Store
from ringlens.store.check.check import check

NAME = "expert_outputs"
RECORD = ("routing", NAME)
TEXT = "<role>HUMAN</role>Make 24 from 4, 6, 1, using each number once.<role>ASSISTANT</role>"


@pytest.fixture(scope="module")
def nano():
    return {
        layout: rl.load("ring-nano", dtype="float32", experts=layout)
        for layout in ("fused", "modules")
    }


@pytest.fixture(scope="module")
def weights():
    """Tensors of ring-nano by their published names, float32."""
    found = {}
    for file in bundled("ring-nano").glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    return found


def captured(lens, path, **options):
    settings = {"max_new_tokens": 30, "temperature": 1.0, "seed": 3, "record": RECORD}
    return rl.capture(lens, rl.problems("countdown", n=3), path, **(settings | options))


@pytest.fixture(scope="module")
def store(nano, tmp_path_factory):
    return captured(nano["fused"], tmp_path_factory.mktemp("fused"))


def plain(lens, weights, trace, layer):
    """Norms, peaks [T, k] and contributions [T], one token and one expert at a time."""
    seen = {}
    points = ("resid_pre", "attn_out", "mlp_out")
    keep = [(POINTS[p], layer, lambda x, p=p: seen.__setitem__(p, x[0].clone())) for p in points]
    block = module_at(lens.model, POINTS["mlp_out"], layer)
    handle = block.register_forward_pre_hook(
        lambda module, args: seen.__setitem__("input", args[0][0].clone())
    )
    ids = trace.tokens()["token_id"].tolist()
    with torch.inference_mode(), attach(lens.model, keep):
        lens.model(input_ids=torch.tensor([ids]))
    handle.remove()
    routing, prefix = trace.routing(layer), f"model.layers.{layer}.mlp.experts"
    norms, peaks, turned = [], [], []
    for pos in range(len(ids)):
        x, mixed, row = seen["input"][pos], torch.zeros(256), []
        for expert, weight in zip(routing["expert_ids"][pos], routing["weights"][pos], strict=True):
            gate, up, down = (
                weights[f"{prefix}.{expert}.{part}_proj.weight"] for part in ("gate", "up", "down")
            )
            z = gate @ x
            output = down @ (z * torch.sigmoid(z) * (up @ x))
            row.append(output)
            mixed += float(weight) * output
        norms.append([float((f * f).sum().sqrt()) for f in row])
        peaks.append([float(f.abs().max()) for f in row])
        h = (seen["resid_pre"] + seen["attn_out"])[pos].double()
        turned.append(1 - float(torch.cosine_similarity(h, h + mixed.double(), dim=0)))
    return np.array(norms), np.array(peaks), np.array(turned)


@pytest.mark.parametrize("layer", [1, 4, 7])
def test_the_numbers_are_those_of_an_expert_at_a_time(nano, weights, store, layer):
    for trace_id in (1, 3):
        trace = store.trace(trace_id)
        found = trace.statistics(NAME, layer)
        norms, peaks, turned = plain(nano["fused"], weights, trace, layer)
        assert found["pos"].tolist() == list(range(len(trace)))
        assert np.array_equal(found["expert_ids"], trace.routing(layer)["expert_ids"])
        np.testing.assert_allclose(found["norms"], norms, rtol=1e-4)
        np.testing.assert_allclose(found["peaks"], peaks, rtol=1e-4)
        # The stored weights, with which this was computed, are rounded to fp16.
        np.testing.assert_allclose(found["contribution"], turned, rtol=5e-3, atol=1e-6)


def test_both_layouts_and_a_replay_give_the_same(nano, store, tmp_path):
    stores = {
        "modules": captured(nano["modules"], tmp_path / "modules"),
        "replay": rl.replay(nano["fused"], store, tmp_path / "replay", record=RECORD),
    }
    for name, other in stores.items():
        assert check(other).findings == [], name
        for trace_id in (1, 2, 3):
            for layer in range(1, 8):
                a, b = (s.trace(trace_id).statistics(NAME, layer) for s in (store, other))
                assert np.array_equal(a["expert_ids"], b["expert_ids"])
                for column in ("norms", "peaks", "contribution"):
                    np.testing.assert_allclose(b[column], a[column], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kernel", ["grouped_mm", "batched_mm", "eager"])
@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_watching_changes_no_bit_and_leaves_nothing_behind(kernel, layout, monkeypatch):
    lens = tiny_lens.lens(layout)
    monkeypatch.setattr(lens.model.config, "_experts_implementation_internal", kernel)
    ids = torch.arange(4, 64).view(2, 30)
    before = state(lens.model)
    seen = []
    with attach(lens.model, [(POINTS["final_norm"], None, lambda x: seen.append(x.clone()))]):
        with torch.inference_mode():
            lens.model(ids, use_cache=False)
        block = observe(lens, ids, record=RECORD)
    assert torch.equal(*seen)
    assert state(lens.model) == before
    found = {name: block.fields[NAME, name] for name in ("norms", "peaks", "contribution")}
    assert block.layers[NAME, "norms"] == (1, 2, 3)
    assert found["norms"].shape == (3, 2, 30, 4) and (found["norms"] > found["peaks"]).all()
    wanted = observe(tiny_lens.lens(), ids, record=RECORD)
    for name, values in found.items():
        np.testing.assert_allclose(values, wanted.fields[NAME, name], rtol=1e-4, atol=1e-7)


def test_experts_that_show_nothing_are_mixed_outside(monkeypatch):
    ids = torch.arange(4, 64).view(2, 30)
    wanted = observe(tiny_lens.lens(), ids, record=RECORD)
    lens, seen = tiny_lens.lens(), []
    monkeypatch.setattr(BailingMoeV2Experts, "shows_outputs", False)
    with attach(lens.model, [(POINTS["final_norm"], None, lambda x: seen.append(x.clone()))]):
        with torch.inference_mode():
            lens.model(ids, use_cache=False)
        block = observe(lens, ids, record=RECORD)
    torch.testing.assert_close(*seen)
    for name in ("expert_ids", "norms", "peaks", "contribution"):
        np.testing.assert_allclose(
            block.fields[NAME, name], wanted.fields[NAME, name], rtol=1e-4, atol=1e-7
        )


def test_a_kernel_that_mixes_in_one_launch_is_given_one_choice_a_row():
    """As those for FP8 and for Hopper do: here a kernel that calls the grouped one."""
    from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward

    def fused(self, hidden, ids, weights):
        assert not self.has_post_expert_norm
        return grouped_mm_experts_forward(self, hidden, ids, weights)

    ExpertsInterface.register("ringlens-test", fused)
    ids = torch.arange(4, 64).view(2, 30)
    wanted = observe(tiny_lens.lens(), ids, record=RECORD)
    lens = tiny_lens.lens()
    lens.model.set_experts_implementation("ringlens-test")
    block = observe(lens, ids, record=RECORD)
    for name in ("expert_ids", "norms", "peaks", "contribution"):
        np.testing.assert_allclose(
            block.fields[NAME, name], wanted.fields[NAME, name], rtol=1e-4, atol=1e-7
        )


def test_kernels_of_an_older_transformers_are_given_one_choice_a_row(monkeypatch):
    """They have no place where outputs are whole."""
    from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward

    def older(self, *given):
        self.has_post_expert_norm = False
        try:
            return grouped_mm_experts_forward(self, *given)
        finally:
            del self.has_post_expert_norm

    ids = torch.arange(4, 64).view(2, 30)
    wanted = observe(tiny_lens.lens(), ids, record=RECORD)
    monkeypatch.setitem(ExpertsInterface._global_mapping, "grouped_mm", older)
    lens = tiny_lens.lens()
    lens.model.set_experts_implementation("grouped_mm")
    for layer in (1, 2, 3):
        del module_at(lens.model, POINTS["expert_out"], layer).has_post_expert_norm
    block = observe(lens, ids, record=RECORD)
    for name in ("norms", "peaks"):
        np.testing.assert_allclose(
            block.fields[NAME, name], wanted.fields[NAME, name], rtol=1e-4, atol=1e-7
        )


def test_padding_moves_no_number():
    short, long = [7, 8, 9], list(range(20, 32))
    lens = tiny_lens.lens()
    ids = torch.tensor([[0] * 9 + short, long])
    mask = torch.tensor([[0] * 9 + [1] * 3, [1] * 12])
    both = observe(lens, ids, pads=(9, 0), record=RECORD, attention_mask=mask,
                   position_ids=(mask.cumsum(1) - 1).clamp(min=0))  # fmt: skip
    alone = observe(lens, torch.tensor([short]), record=RECORD)
    for name in ("norms", "peaks", "contribution"):
        np.testing.assert_allclose(
            both.fields[NAME, name][:, 0, 9:], alone.fields[NAME, name][:, 0], rtol=1e-4, atol=1e-7
        )


def test_an_interrupted_run_is_taken_up_bit_for_bit(nano, store, tmp_path):
    def stop(progress):
        if progress.tokens > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        captured(nano["fused"], tmp_path, commit_every=0, on_progress=stop)
    with Store(tmp_path) as broken:
        rows = broken.sql("select count(*) from expert_outputs").fetchall()[0][0]
    again = captured(nano["fused"], tmp_path, commit_every=0)
    query = "select * exclude (trace_id) from expert_outputs order by trace_id, layer, pos"
    assert 0 < rows < len(found := again.sql(query).fetchall())
    assert found == store.sql(query).fetchall()
    assert check(again).findings == []


def test_a_check_misses_rows(store, tmp_path):
    assert check(store).findings == []
    lens = tiny_lens.lens()
    few = rl.capture(
        lens, PROMPTS[:2], tmp_path, max_new_tokens=4, record=("routing", "expert_outputs@2")
    )
    assert few.trace(1).layers(NAME) == [2]
    for file in few.files(NAME):
        (tmp_path / file.path).unlink()
    assert {finding.kind for finding in check(few).findings} >= {"missing"}


def test_numbers_that_are_none_are_refused(tmp_path):
    lens = tiny_lens.lens()
    experts = module_at(lens.model, POINTS["expert_out"], 2)
    experts.down_proj.data[:, 3] = torch.inf
    with pytest.raises(ObservationError, match=r"layer 2.*experts' (contribution|norms|peaks)"):
        rl.capture(lens, PROMPTS[:1], tmp_path, max_new_tokens=2, record=(NAME,))


def test_a_watch_is_given_ids_weights_norms_and_peaks():
    lens, seen = tiny_lens.lens(), []
    experts = module_at(lens.model, POINTS["expert_out"], 1)
    watch = OutputWatch(lens.model, experts, lambda *numbers: seen.append(numbers))
    with torch.inference_mode():
        lens.model(torch.tensor([[5, 6, 7]]))
    watch.remove()
    ids, weights, norms, peaks = seen[0]
    assert ids.shape == weights.shape == norms.shape == peaks.shape == (3, 4)


def test_quantised_outputs_are_those_of_the_quantised_experts(tmp_path):
    pytest.importorskip("bitsandbytes")
    lens = rl.load("ring-nano", quantization="nf4")
    assert lens.model.config.experts_layout == "modules"
    seen, experts = [], module_at(lens.model, POINTS["expert_out"], 3)
    keep = experts[5].register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    block = observe(lens, torch.tensor([lens.encode(TEXT)]), record=RECORD)
    keep.remove()
    chosen = block.fields[NAME, "expert_ids"][2, 0] == 5
    norms = torch.linalg.vector_norm(seen[0].float(), dim=-1).numpy()
    assert len(norms) > 0
    np.testing.assert_array_equal(block.fields[NAME, "norms"][2, 0][chosen], norms)
