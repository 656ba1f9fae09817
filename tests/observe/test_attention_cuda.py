"""Kernels on the GPU against float64: grouped heads, padding, cached keys, odd lengths, 16 bits."""

import pytest
import torch
from attention_reference import explicit

from ringlens.observe.kernels.attention import Causal, head_statistics, second_pass
from ringlens.observe.kernels.attention_interface import register_attention, take_statistics
from ringlens.observe.kernels.attention_segments import offset_weights, segment_mass, top_positions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

NAMES = ("entropy", "first_weight", "previous_weight", "logsumexp")
SHAPES = [  # B, H, G, T, S, C, padding
    (1, 4, 4, 64, 64, 64, None),
    (2, 8, 2, 100, 100, 128, [0, 37]),
    (2, 8, 1, 130, 300, 128, [64, 280]),
    (3, 4, 2, 1, 200, 64, [0, 5, 199]),
    (2, 4, 2, 64, 700, 128, [128, 1]),
    (2, 4, 2, 257, 257, 64, [257, 0]),
]


def case(B, H, G, T, S, C, pads, dtype):
    g = torch.Generator("cuda").manual_seed(0)
    query = torch.randn(B, H, T, C, generator=g, device="cuda") * 2
    key, value = torch.randn(2, B, S, G, C, generator=g, device="cuda").transpose(2, 3).unbind()
    first = None if pads is None else torch.tensor(pads, device="cuda")
    return query.to(dtype), key.to(dtype), value.to(dtype), first, C**-0.5


def wanted_of(query, key, first, scaling):
    return explicit(query, key, torch.zeros(len(query)) if first is None else first, scaling)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics(shape, dtype):
    query, key, _, first, scaling = case(*shape, dtype)
    want = wanted_of(query, key, first, scaling)
    got = head_statistics(query, key, Causal(first), scaling)
    for name in NAMES:
        torch.testing.assert_close(
            getattr(got, name).double(), want[name], atol=1e-4, rtol=1e-4, equal_nan=True
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_second_pass_of_flash_attention(shape):
    query, key, _, first, scaling = case(*shape, torch.bfloat16)
    want = wanted_of(query, key, first, scaling)
    got = second_pass(query, key, first, scaling)
    for name in NAMES:
        torch.testing.assert_close(
            getattr(got, name).double(), want[name], atol=5e-2, rtol=1e-2, equal_nan=True
        )


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_output(shape, descriptors):
    from ringlens.observe.kernels import attention_triton as kernels

    query, key, value, first, scaling = case(*shape, torch.bfloat16)
    p = wanted_of(query, key, first, scaling)["p"].nan_to_num().transpose(1, 2)
    want = (p @ value.double().repeat_interleave(shape[1] // shape[2], 1)).transpose(1, 2)
    for tiling in (
        kernels.Tiling(64, 64, 4, 2, descriptors=descriptors),
        kernels.Tiling(128, 64, 8, 2, descriptors=descriptors),
    ):
        got, _ = kernels.attention_with_statistics(query, key, value, first, scaling, tiling)
        torch.testing.assert_close(got.double(), want, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_offsets_spans_and_top_positions(shape):
    query, key, _, first, scaling = case(*shape, torch.bfloat16)
    S = key.shape[2]
    p = wanted_of(query, key, first, scaling)["p"]
    mask = Causal(first)
    logsumexp = head_statistics(query, key, mask, scaling).logsumexp
    own = offset_weights(query, key, mask, scaling, logsumexp, [0])[..., 0]
    at = torch.arange(S - query.shape[2], S, device="cuda")[None, :, None, None]
    want = p.gather(3, at.expand(*p.shape[:3], 1))[..., 0]
    torch.testing.assert_close(own.double(), want, atol=1e-4, rtol=1e-4, equal_nan=True)
    spans = torch.tensor([[0, S // 2], [S // 2, S], [0, S]])
    mass = segment_mass(query, key, mask, scaling, spans).double()
    want = torch.stack([p[..., a:b].sum(-1) for a, b in spans.tolist()], dim=-1)
    torch.testing.assert_close(mass, want, atol=2e-3, rtol=2e-3, equal_nan=True)
    _, weights = top_positions(query, key, mask, scaling, 3, heads=(1, 0))
    want = p[:, :, [1, 0]].nan_to_num().topk(3, dim=-1).values
    torch.testing.assert_close(weights.double(), want, atol=1e-4, rtol=1e-4)


def test_a_model_under_ringlens_attention():
    """sdpa's first layer within bfloat16, padded; the same bits when it is watched."""
    from golden_data import load

    register_attention()
    ours = load(attention="ringlens").to("cuda", torch.bfloat16)
    theirs = load(attention="sdpa").to("cuda", torch.bfloat16)
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 380, (2, 70), generator=g).cuda()
    real = torch.ones_like(ids)
    real[0, :33] = 0
    outputs = []
    for model in (ours, theirs):  # the first layer alone: after it, a close choice of expert flips
        attention = model.model.layers[0].attention
        attention.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    layers = [layer.attention for layer in ours.model.layers]
    with torch.inference_mode():
        plain = ours(ids, attention_mask=real).logits
        assert take_statistics(layers[0]) is None
        for layer in layers:
            layer.__dict__["ringlens_watches"] = [print]
        watched = ours(ids, attention_mask=real).logits
        found = take_statistics(layers[0])
        theirs(ids, attention_mask=real)
    assert found.entropy.shape[:2] == ids.shape
    assert torch.equal(found.entropy[..., 0].isnan(), real == 0)
    assert torch.equal(plain[real.bool()], watched[real.bool()])
    first, _, wanted = (x[real.bool()] for x in outputs)
    assert (first - wanted).abs().max() < 0.02 * wanted.abs().max()
