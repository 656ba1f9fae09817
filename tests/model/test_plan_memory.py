"""The formulas of working memory against every tensor that a real forward makes."""

import weakref
from dataclasses import replace

import pytest
import torch
from slow_files import few
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers.cache_utils import DynamicCache

from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM
from ringlens.model.fit.memory import (
    CHUNK_LOGITS,
    Workload,
    activation_bytes,
    cache_bytes,
    decoding_bytes,
)
from ringlens.model.fit.placement import devices
from ringlens.model.fit.scenario import scenario

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
