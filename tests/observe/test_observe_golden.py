"""Every recorded value against one recomputed, in float64, from the published code's outputs."""

from types import SimpleNamespace

import golden_data
import numpy as np
import pytest
import tiny_lens
import torch
from golden_data import SPARSE_LAYERS
from observed import EVERYTHING, observe
from transformers.cache_utils import DynamicCache

from ringlens.observe.instruments.routing import FIELDS as ROUTING
from ringlens.observe.pipeline.recorder import Recorder
from ringlens.store.schema.recorded_tables import HEAD_STATISTICS as HEADS

PAD = 7
K, GROUPS, KEPT = 4, 4, 2


@pytest.fixture(scope="module")
def expected():
    return golden_data.expected()


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


COMPILED = pytest.param("fused-flex_attention", marks=pytest.mark.extra)


@pytest.fixture(scope="module", params=["fused-sdpa", "modules-eager", COMPILED])
def seen(request, expected):
    mask = expected["attention_mask"]
    return observe(
        tiny_lens.lens(*request.param.split("-")),
        expected["input_ids"],
        pads=(0, PAD),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
    )


def routing(seen, index, row=0):
    """The router record [T, …] of a row on the index-th sparse layer."""
    return SimpleNamespace(**{name: seen.fields["routing", name][index, row] for name in ROUTING})


def close_to_half(actual, wanted):
    """Equal up to rounding to fp16 (11 bits) and the model's own float32 error."""
    np.testing.assert_allclose(actual, wanted, rtol=2**-11, atol=2e-6)


@pytest.mark.parametrize("index", range(3))
def test_router_record(seen, lens, expected, index):
    layer = SPARSE_LAYERS[index]
    assert seen.layers["routing", "margin"] == tuple(SPARSE_LAYERS)
    record = routing(seen, index)
    z = expected[f"layers.{layer}.router.logits"].double().numpy()
    ids = expected[f"layers.{layer}.router.topk_ids"].numpy()
    weights = expected[f"layers.{layer}.router.topk_weights"].numpy()
    bias = lens.model.model.layers[layer].mlp.gate.expert_bias.double().numpy()
    s = 1 / (1 + np.exp(-z))
    for t in range(33):
        got = record.expert_ids[t].tolist()
        assert set(got) == set(ids[t].tolist())
        assert (np.diff(record.weights[t]) <= 0).all()
        by_id = dict(zip(ids[t].tolist(), weights[t], strict=True))
        close_to_half(record.weights[t], [by_id[e] for e in got])
        np.testing.assert_allclose(record.affinities[t], s[t, got], rtol=2e-6)
        why = explain(s[t], bias)
        assert set(got) == why["chosen"]
        np.testing.assert_allclose(record.margin[t], why["margin"], atol=2e-6)
        np.testing.assert_allclose(record.group_margin[t], why["group_margin"], atol=2e-6)
        flipped = {e for e, f in zip(got, record.bias_flips[t], strict=True) if f}
        assert flipped == why["chosen"] - explain(s[t], 0 * bias)["chosen"]
        shut_out = record.unlimited_ids[t][record.group_flips[t]]
        assert set(shut_out.tolist()) == why["unlimited"] - why["allowed"]
        share = s[t] / s[t].sum()
        np.testing.assert_allclose(record.entropy[t], -(share * np.log(share)).sum(), rtol=2e-6)
    close_to_half(seen.fields["routing", "logits"][index, 0], z)


def explain(s, bias):
    """The router in plain Python, for one token."""
    c = (s + bias).tolist()
    size = len(c) // GROUPS
    scores = [sum(sorted(c[g * size : (g + 1) * size])[-2:]) for g in range(GROUPS)]
    ranked = sorted(range(GROUPS), key=lambda g: -scores[g])
    allowed = [e for e in range(len(c)) if e // size in ranked[:KEPT]]
    best = sorted(allowed, key=lambda e: -c[e])
    return {
        "chosen": set(best[:K]),
        "allowed": set(allowed),
        "unlimited": set(sorted(range(len(c)), key=lambda e: -c[e])[:K]),
        "margin": c[best[K - 1]] - c[best[K]],
        "group_margin": scores[ranked[KEPT - 1]] - scores[ranked[KEPT]],
    }


@pytest.mark.parametrize("layer", range(4))
def test_heads(seen, expected, layer):
    heads = SimpleNamespace(**{name: seen.fields["heads", name][:, 0] for name in HEADS})
    weights = expected[f"layers.{layer}.attention.weights"].double().permute(1, 2, 0).numpy()
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=1)
    close_to_half(heads.entropy[layer], entropy)
    close_to_half(heads.first_weight[layer], weights[:, 0])
    previous = np.stack([np.zeros(8), *(weights[t, t - 1] for t in range(1, 33))])
    close_to_half(heads.previous_weight[layer], previous)
    norm = expected[f"layers.{layer}.attention.head_output"].norm(dim=-1).numpy()
    np.testing.assert_allclose(heads.output_norm[layer], norm, rtol=2e-5)


def test_logprobs(seen, expected):
    logprob, entropy = (seen.fields["logprobs", name][0, 0] for name in ("logprob", "entropy"))
    logp = expected["logits"].double().log_softmax(dim=-1)
    ids = expected["input_ids"][0]
    wanted = logp[:-1].gather(1, ids[1:, None])[:, 0]
    np.testing.assert_allclose(logprob[1:], wanted.numpy(), atol=2e-5)
    np.testing.assert_allclose(entropy[1:], -(logp.exp() * logp).sum(-1)[:-1].numpy(), atol=2e-5)
    assert np.isnan(logprob[0])
    assert np.isnan(entropy[0])


def test_a_padded_row_equals_that_row_alone(seen, lens, expected):
    alone = observe(lens, expected["input_ids"][1:, PAD:])
    for index in range(len(SPARSE_LAYERS)):
        a, b = routing(alone, index), routing(seen, index, row=1)
        assert (a.expert_ids == b.expert_ids[PAD:]).all()
        assert (a.bias_flips == b.bias_flips[PAD:]).all()
        np.testing.assert_allclose(a.margin, b.margin[PAD:], atol=2e-6)
    for name in HEADS:
        a, b = alone.fields["heads", name][:, 0], seen.fields["heads", name][:, 1, PAD:]
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=2e-3, atol=1e-5)
    a, b = (x.fields["logprobs", "logprob"][0] for x in (alone, seen))
    np.testing.assert_allclose(a[0, 1:], b[1, PAD + 1 :], atol=2e-5)


def test_decoding_gives_what_one_forward_gives(lens, expected):
    """Steps wait for one another and are looked at in blocks; nothing may depend on that."""
    ids = expected["input_ids"][:1]
    whole, blocks = observe(lens, ids), []
    cache = DynamicCache(config=lens.config)
    with Recorder(lens, EVERYTHING, blocks.append), torch.inference_mode():
        for start, stop in [(0, 9), (9, 10), *((i, i + 1) for i in range(10, 20)), (20, 33)]:
            lens.model(input_ids=ids[:, start:stop], cache=cache)
    seen = [block.open() for block in blocks]
    assert [(block.start, block.stop) for block in seen] == [(0, 9), (9, 20), (20, 33)]
    assert [block.token_ids.tolist() for block in seen] == [
        ids[:, block.start : block.stop].tolist() for block in seen
    ]
    for field, wanted in whole.fields.items():
        found = np.concatenate([block.fields[field] for block in seen], axis=2)
        np.testing.assert_allclose(
            found.astype(float), wanted.astype(float), rtol=2e-3, atol=2e-5, err_msg=str(field)
        )
