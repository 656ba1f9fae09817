"""The formulas of working memory against every tensor that a real forward makes."""

import weakref
from dataclasses import replace

import pytest
import tiny_lens
import torch
from repeating import repeated
from slow_files import few
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers.cache_utils import DynamicCache

import ringlens as rl
from ringlens.config import Sampling
from ringlens.lens import Lens
from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM
from ringlens.model.fit.memory import (
    CHUNK_LOGITS,
    RING,
    ROOM,
    Workload,
    activation_bytes,
    cache_bytes,
    decoding_bytes,
    graph_bytes,
    recording_bytes,
)
from ringlens.model.fit.placement import Device, devices, fill
from ringlens.model.fit.plan import plan
from ringlens.model.fit.scenario import GRAPH, empty_loads, scenario
from ringlens.model.fit.strategy import sharded
from ringlens.observe.decoding import rings, step
from ringlens.observe.decoding.generating import AsItStands, plainly

BASE = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 576,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "partial_rotary_factor": 0.5,
}
SHAPES = {
    "like Ring-1T": {},
    "wide attention": {"num_attention_heads": 16, "num_key_value_heads": 4},
    "wide dense block": {"intermediate_size": 4096, "num_experts_per_tok": 1},
}


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {x.untyped_storage()._cdata for x in tree_flatten((args, kwargs))[0] if is_(x)}
        result = func(*args, **(kwargs or {}))
        for x in tree_flatten(result)[0]:
            if is_(x) and (key := x.untyped_storage()._cdata) not in before | self._known:
                size = x.untyped_storage().nbytes()
                self._known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(x.untyped_storage(), self._gone, key, size)
        return result

    def _gone(self, key, size):
        self._known.discard(key)
        self.live -= size


def is_(x):
    return isinstance(x, torch.Tensor)


def peak(model, work, seen, padded):
    """Peak of a forward over ``work.tokens`` tokens after ``seen`` cached ones."""
    T = work.tokens // work.batch
    cache = DynamicCache(config=model.config)
    mask = torch.ones(work.batch, seen + T, dtype=torch.long)
    if padded:
        mask[0, :3] = 0
    ids = torch.randint(2, 60, (work.batch, seen + T))
    with torch.inference_mode(False), torch.no_grad():
        options = {"cache": cache, "use_cache": True, "logits_to_keep": 1}
        if seen:
            model(ids[:, :seen], attention_mask=mask[:, :seen], **options)
        with LiveBytes() as watched:
            model(ids[:, seen:], attention_mask=mask, **options)
    return watched.peak


@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_decoding_on_a_gpu_takes_what_is_planned_for_copies_of_experts(batch, shape):
    """``generate`` switches to ``batched_mm`` on GPUs; here the switch is thrown by hand."""
    config = BailingMoeV2Config(**{**BASE, **SHAPES[shape], "moe_intermediate_size": 512})
    torch.manual_seed(0)
    model = BailingMoeV2ForCausalLM(config).to(torch.bfloat16).eval()
    model.set_experts_implementation("batched_mm")
    work = Workload(context=17, batch=batch, prefill=1)
    found = peak(model, work, 16, padded=False)
    copied = batch * config.num_experts_per_tok * 3 * 256 * 512 * 2
    assert copied < found <= decoding_bytes(config, work, 2) + 2 * cache_bytes(config, work, 2)
    assert decoding_bytes(config, work, 2) <= 1.15 * found
    s = replace(scenario(config, work=work), splits=1)  # as under torchrun
    assert s.needs["model.layers.1"].working >= decoding_bytes(config, work, 2)
    assert s.on(devices("cpu:8GB")).needs["model.layers.1"].working < copied


@pytest.mark.parametrize("layout", ["fused", "modules"])
@pytest.mark.parametrize("shape", few(SHAPES, 1), ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize(
    ("batch", "prefill", "seen", "padded"),
    [(1, 512, 0, False), (4, 256, 0, True), (2, 64, 960, True), (3, 1, 1023, True)],
    ids=["one", "prefill", "chunk", "decode"],
)
def test_no_forward_takes_more_than_planned(layout, shape, batch, prefill, seen, padded):
    """All that two layers cache counts as made by it; a plan is at most three times too much."""
    config = BailingMoeV2Config(**{**BASE, **SHAPES[shape]}, experts_layout=layout)
    torch.manual_seed(0)
    model = BailingMoeV2ForCausalLM(config).to(torch.bfloat16).eval()
    work = Workload(context=seen + prefill, batch=batch, prefill=prefill)
    stages = activation_bytes(config, work, 2, layout)
    stages["logits"] -= CHUNK_LOGITS  # a bound on the recorder, which does not run here
    planned = max(stages.values()) + 2 * cache_bytes(config, work, 2)
    found = peak(model, work, seen, padded)
    assert found <= planned
    if prefill > 1:
        assert planned <= 3 * found


@pytest.mark.parametrize("shape", SHAPES, ids=lambda name: name.replace(" ", "_"))
@pytest.mark.parametrize("batch", [1, 16])
def test_a_step_that_is_repeated_takes_no_more_than_planned(batch, shape):
    """With the cache while it grows from the prompt's; without noise and recording."""
    config = BailingMoeV2Config(**{**BASE, **SHAPES[shape]}, attn_implementation="sdpa")
    torch.manual_seed(0)
    model = BailingMoeV2ForCausalLM(config).to(torch.bfloat16).eval()
    model.set_experts_implementation("grouped_mm")
    words = tiny_lens.lens().tokenizer
    ids, work = torch.randint(2, 60, (batch, 8)), Workload(ROOM, batch, 8)
    seen = []
    with LiveBytes() as watched:
        lens, sampling = Lens(model, words, "m"), Sampling(40)
        plainly(lens, ids, torch.ones_like(ids), sampling, AsItStands, lambda: seen.append(1))
    assert len(seen) == 40
    room = 2 * cache_bytes(config, work, 2)
    assert room < watched.peak <= graph_bytes(config, work, 2) + room


def test_the_ring_of_a_graph_is_planned_for(tmp_path, monkeypatch):
    made = []

    class Kept(rings.Rings):
        def __init__(self, shown, steps):
            super().__init__(shown, steps)
            made.append((steps, self._ring_Rb.nbytes))

    monkeypatch.setattr(step, "Rings", Kept)
    lens = tiny_lens.lens()
    with repeated():
        rl.capture(lens, ["Make 3 from 1, 2."] * 4, tmp_path / "s", max_new_tokens=20).close()
    ((steps, found),) = made
    sizes, item = lens.sizes, lens.model.dtype.itemsize
    planned = recording_bytes(lens.config, Workload(512, 4, 1), item, RING)
    sparse, dense = len(sizes.sparse_layers), len(sizes.dense_layers)
    assert steps == RING
    bound = planned.sparse_layer * sparse + planned.dense_layer * dense
    assert found <= 1.01 * bound <= 2 * found  # 1%: tokens and where tensors begin


def test_a_graph_is_planned_for_where_there_can_be_one():
    config = BailingMoeV2Config(**BASE)
    s = scenario(config, work=Workload(1000, 4, 64))
    one, two = s.on(devices("1x8GB")), s.on(devices("2x8GB"))
    assert one.graph and GRAPH in one.activations
    assert sharded(two, devices("2x8GB"), 2, 2, 1).loads[0].recording > 1.4 * (
        sharded(two, devices("2x8GB"), 1, 1, 2).loads[0].recording
    )
    assert not two.graph and not s.on(devices("cpu:8GB")).graph and not s.graph
    assert one.quantized("nf4").graph and not one.quantized("int8").graph
    assert not replace(one, layout="modules").graph
    wide = replace(one, work=Workload(1000, 300, 64))  # four choices a token: 1,200
    assert wide.graph and not wide.quantized("nf4").graph
    assert one.cache == two.cache * 1024 // 1000  # the cache of a graph grows by 256 positions
    ring = one.recording.sparse_layer / two.recording.sparse_layer
    assert ring == pytest.approx((RING + 64) / 64, rel=1e-3)


def test_decoding_eagerly_is_named_where_only_a_graph_does_not_fit():
    s = scenario(BailingMoeV2Config(**BASE), work=Workload(1000, 4, 64))
    eager = s.on(devices("2x8GB"))
    (load,) = fill(eager.needs, empty_loads(eager, devices("1x8GB")))
    found = plan(s, [Device("gpu 0", load.used)])
    assert not found.strategies[0].fits
    assert "decoding eagerly fits (--decode eager)" in [change.sentence for change in found.changes]
    assert plan(s, [Device("gpu 0", 2 * load.used)]).strategies[0].fits
