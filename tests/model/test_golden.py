"""The model against the published code's outputs: every quantity, kernel and layout."""

import itertools

import golden_data
import pytest
import torch
from golden_data import SPARSE_LAYERS, relative

TOLERANCE = 2e-5
VARIANTS = list(itertools.product(("fused", "modules"), ("eager", "sdpa", "flex_attention")))


@pytest.fixture(scope="module")
def expected():
    return golden_data.expected()


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda v: "-".join(v))
def model(request):
    with golden_data.interpreted():
        yield golden_data.load(*request.param)


@pytest.fixture(scope="module")
def output(model, expected):
    with torch.inference_mode():
        return model(
            expected["input_ids"][:1], output_hidden_states=True, output_router_logits=True
        )


def test_logits(output, expected):
    assert relative(output.logits[0], expected["logits"]) < TOLERANCE


@pytest.mark.parametrize("index", range(5))
def test_hidden_states(output, expected, index):
    wanted = expected[f"hidden_states.{index}"]
    assert relative(output.hidden_states[index][0], wanted) < TOLERANCE


@pytest.mark.parametrize("layer", SPARSE_LAYERS)
def test_router_logits(output, expected, layer):
    wanted = expected[f"layers.{layer}.router.logits"]
    assert relative(output.router_logits[layer - 1], wanted) < TOLERANCE


@pytest.fixture(scope="module")
def routers(model, expected):
    seen = {}
    handles = [
        model.model.layers[layer].mlp.gate.register_forward_hook(
            lambda module, args, out, layer=layer: seen.__setitem__(layer, out)
        )
        for layer in SPARSE_LAYERS
    ]
    with torch.inference_mode():
        model(expected["input_ids"][:1])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("layer", SPARSE_LAYERS)
def test_router_topk_ids(routers, expected, layer):
    wanted = expected[f"layers.{layer}.router.topk_ids"].long()
    assert torch.equal(routers[layer][2].sort(dim=-1).values, wanted.sort(dim=-1).values)


@pytest.mark.parametrize("layer", SPARSE_LAYERS)
def test_router_topk_weights(routers, expected, layer):
    def by_expert(ids, weights):
        return torch.zeros(len(ids), 16).scatter_(1, ids, weights)

    wanted = by_expert(
        expected[f"layers.{layer}.router.topk_ids"].long(),
        expected[f"layers.{layer}.router.topk_weights"],
    )
    _, weights, ids = routers[layer]
    assert relative(by_expert(ids, weights), wanted) < TOLERANCE


@pytest.mark.parametrize("layer", range(4))
def test_attention_head_output(model, expected, layer):
    seen = []
    dense = model.model.layers[layer].attention.dense
    handle = dense.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        model(expected["input_ids"][:1])
    handle.remove()
    wanted = expected[f"layers.{layer}.attention.head_output"]
    assert relative(seen[0][0].view_as(wanted), wanted) < TOLERANCE


@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_attention_weights(expected, layout):
    model = golden_data.load(layout, "eager")
    with torch.inference_mode():
        attentions = model(expected["input_ids"][:1], output_attentions=True).attentions
    for layer, weights in enumerate(attentions):
        assert relative(weights[0], expected[f"layers.{layer}.attention.weights"]) < TOLERANCE


def test_batch_with_left_padding(model, expected):
    mask = expected["attention_mask"]
    with torch.inference_mode():
        logits = model(
            expected["input_ids"],
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        ).logits
    assert relative(logits[:, -1], expected["batch_logits_last"]) < TOLERANCE


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_tokens(model, expected, cache):
    if cache == "static" and model.config._attn_implementation == "flex_attention":
        pytest.skip("transformers' generate cannot make a block mask for a static cache")
    ids = model.generate(
        expected["input_ids"][:1],
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
        cache_implementation=None if cache == "dynamic" else cache,
    )
    assert torch.equal(ids[0], expected["greedy_ids"])
