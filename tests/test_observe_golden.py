"""Every recorded value against one recomputed, in float64, from the published code's outputs."""

import golden_data
import numpy as np
import pytest
import tiny_lens
import torch
from golden_data import SPARSE_LAYERS

from ringlens.observe.recorder import Recorder

ROW = (0, slice(0, 33))
K, GROUPS, KEPT = 4, 4, 2


@pytest.fixture(scope="module")
def expected():
    return golden_data.expected()


@pytest.fixture(scope="module", params=["fused-sdpa", "modules-eager", "fused-flex_attention"])
def recorder(request, expected):
    lens = tiny_lens.lens(*request.param.split("-"))
    mask = expected["attention_mask"]
    with (
        Recorder(lens.model, lens.router, ("routing", "router_logits", "heads")) as recorder,
        torch.inference_mode(),
    ):
        lens.model(
            input_ids=expected["input_ids"],
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        )
    return recorder


def close_to_half(actual, wanted):
    """Equal up to rounding to fp16 (11 bits) and the model's own float32 error."""
    np.testing.assert_allclose(actual, wanted, rtol=2**-11, atol=2e-6)


@pytest.mark.parametrize("index", range(3))
def test_router_record(recorder, expected, index):
    layer = SPARSE_LAYERS[index]
    record, stored = recorder.routing(ROW)
    z = expected[f"layers.{layer}.router.logits"].double().numpy()
    ids = expected[f"layers.{layer}.router.topk_ids"].numpy()
    weights = expected[f"layers.{layer}.router.topk_weights"].numpy()
    bias = recorder.model.model.layers[layer].mlp.gate.expert_bias.double().numpy()
    s = 1 / (1 + np.exp(-z))
    for t in range(33):
        got = record.expert_ids[index, t].tolist()
        assert set(got) == set(ids[t].tolist())
        assert (np.diff(record.weights[index, t]) <= 0).all()
        by_id = dict(zip(ids[t].tolist(), weights[t], strict=True))
        close_to_half(record.weights[index, t], [by_id[e] for e in got])
        np.testing.assert_allclose(record.affinities[index, t], s[t, got], rtol=2e-6)
        why = explain(s[t], bias)
        assert set(got) == why["chosen"]
        np.testing.assert_allclose(record.margin[index, t], why["margin"], atol=2e-6)
        np.testing.assert_allclose(record.group_margin[index, t], why["group_margin"], atol=2e-6)
        flipped = {e for e, f in zip(got, record.bias_flips[index, t], strict=True) if f}
        assert flipped == why["chosen"] - explain(s[t], 0 * bias)["chosen"]
        shut_out = record.unlimited_ids[index, t][record.group_flips[index, t]]
        assert set(shut_out.tolist()) == why["unlimited"] - why["allowed"]
        share = s[t] / s[t].sum()
        np.testing.assert_allclose(
            record.entropy[index, t], -(share * np.log(share)).sum(), rtol=2e-6
        )
    close_to_half(stored[index], z)


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
def test_heads(recorder, expected, layer):
    heads = recorder.heads(ROW)
    weights = expected[f"layers.{layer}.attention.weights"].double().permute(1, 2, 0).numpy()
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=1)
    close_to_half(heads.entropy[layer], entropy)
    close_to_half(heads.first_weight[layer], weights[:, 0])
    previous = np.stack([np.zeros(8), *(weights[t, t - 1] for t in range(1, 33))])
    close_to_half(heads.previous_weight[layer], previous)
    norm = expected[f"layers.{layer}.attention.head_output"].norm(dim=-1).numpy()
    np.testing.assert_allclose(heads.output_norm[layer], norm, rtol=2e-5)


def test_vocabulary(recorder, expected):
    logprob, entropy = recorder.token_numbers(ROW)
    logp = expected["logits"].double().log_softmax(dim=-1)
    ids = expected["input_ids"][0]
    wanted = logp[:-1].gather(1, ids[1:, None])[:, 0]
    np.testing.assert_allclose(logprob[1:], wanted.numpy(), atol=2e-5)
    np.testing.assert_allclose(entropy[1:], -(logp.exp() * logp).sum(-1)[:-1].numpy(), atol=2e-5)
    assert np.isnan(logprob[0])
    assert np.isnan(entropy[0])


def test_a_padded_row_equals_that_row_alone(recorder, expected):
    lens = tiny_lens.lens()
    ids = expected["input_ids"][1:, 7:]
    with (
        Recorder(lens.model, lens.router, recorder.record) as alone,
        torch.inference_mode(),
    ):
        lens.model(input_ids=ids, use_cache=False, logits_to_keep=1)
    padded = (1, slice(7, 33))
    a, b = alone.routing((0, slice(0, 26)))[0], recorder.routing(padded)[0]
    assert (a.expert_ids == b.expert_ids).all()
    assert (a.bias_flips == b.bias_flips).all()
    np.testing.assert_allclose(a.margin, b.margin, atol=2e-6)
    ha, hb = alone.heads((0, slice(0, 26))), recorder.heads(padded)
    for name in ("entropy", "first_weight", "previous_weight", "output_norm"):
        np.testing.assert_allclose(getattr(ha, name), getattr(hb, name), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(
        alone.token_numbers((0, slice(0, 26)))[0], recorder.token_numbers(padded)[0], atol=2e-5
    )
