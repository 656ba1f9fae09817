"""Norms, rotations and choices of few rows, each in one kernel, against torch's, on a GPU."""

import pytest
import torch

from ringlens.model.kernels.few_rows import MOST_ROWS, in_one_launch
from ringlens.model.ring.attention import BailingMoeV2RMSNorm, rotate, rotate_both
from ringlens.model.ring.configuration import BailingMoeV2Config
from ringlens.model.ring.moe import BailingMoeV2Gate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def no_gradients():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def by_torch(monkeypatch, compute):
    with monkeypatch.context() as patch:
        for name in ("attention", "moe"):
            patch.setattr(f"ringlens.model.ring.{name}.in_one_launch", lambda *_: False)
        return compute()


def ulps(found, wanted):
    """Distance in units of the last place of what was wanted, the largest and the mean."""
    eps = torch.finfo(wanted.dtype).eps
    far = (found.double() - wanted.double()).abs() / (wanted.double().abs() * eps + 1e-30)
    return far.max().item(), far.mean().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 2048), (3, 1, 96), (2, 5, 8192), (16, 1, 20, 128)], ids=str
)
def test_a_norm_is_torchs_but_for_the_order_of_its_sum(monkeypatch, dtype, shape):
    norm = BailingMoeV2RMSNorm(shape[-1], 1e-6).to("cuda", dtype)
    norm.weight.normal_(1, 0.2)
    wide = torch.randn(*shape[:-2], 2 * shape[-2], shape[-1], device="cuda").to(dtype) * 3
    x = wide[..., : shape[-2], :]  # with gaps, as the queries of a fused projection
    assert in_one_launch(x.shape[0] * x.shape[1], x, norm.weight)
    found, wanted = norm(x), by_torch(monkeypatch, lambda: norm(x))
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    most, mean = ulps(found, wanted)
    assert most <= 4  # a value and its weight are rounded each
    assert mean <= (1.5 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("B", "T", "rows"), [(1, 1, 1), (3, 1, 3), (2, 7, 1)])
@pytest.mark.parametrize(("H", "G", "C", "R"), [(16, 4, 128, 64), (5, 1, 24, 24), (4, 2, 80, 40)])
def test_a_rotation_is_torchs_bit_for_bit(dtype, B, T, rows, H, G, C, R):
    qkv = torch.randn(B, T, H + 2 * G, C, device="cuda").to(dtype)
    query, key, _ = (x.transpose(1, 2) for x in qkv.split((H, G, G), dim=2))
    angles = torch.randn(rows, T, R, device="cuda") * 9
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    assert in_one_launch(B * T, query, key, cos, sin)
    found = rotate_both(query, key, cos, sin)
    for ours, theirs in zip(found, (rotate(query, cos, sin), rotate(key, cos, sin)), strict=True):
        assert torch.equal(ours, theirs)


SHAPES = [
    (256, 8, 8, 4),
    (256, 8, 1, 1),
    (15, 3, 5, 2),
    (12, 4, 3, 1),
    (384, 6, 8, 4),
    (16, 1, 4, 4),
]


@pytest.mark.parametrize(("E", "k", "groups", "kept"), SHAPES)
@pytest.mark.parametrize("N", [1, 17, MOST_ROWS])
def test_a_choice_is_torchs(monkeypatch, E, k, groups, kept, N):
    config = BailingMoeV2Config(
        num_experts=E, num_experts_per_tok=k, n_group=groups, topk_group=kept, hidden_size=64,
        num_attention_heads=8, num_key_value_heads=2, head_dim=8, routed_scaling_factor=2.5,
    )  # fmt: skip
    gate = BailingMoeV2Gate(config).to("cuda")
    gate.expert_bias.normal_(0, 0.05)
    logits = torch.randn(N, E, device="cuda") * 3
    assert in_one_launch(N, logits, gate.expert_bias)
    same, weights, ids = gate.route(logits)
    _, wanted, chosen = by_torch(monkeypatch, lambda: gate.route(logits))
    assert same is logits
    assert torch.equal(ids, chosen)
    assert (weights.shape, weights.dtype, ids.dtype) == (wanted.shape, wanted.dtype, chosen.dtype)
    torch.testing.assert_close(weights, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("N", "D", "E"), [(1, 2048, 256), (16, 8192, 256), (3, 72, 15), (5, 1000, 6)]
)
def test_logits_are_as_near_the_exact_ones_as_torchs(monkeypatch, dtype, N, D, E):
    config = BailingMoeV2Config(
        num_experts=E, num_experts_per_tok=1, n_group=1, topk_group=1, hidden_size=D,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    gate = BailingMoeV2Gate(config).to("cuda", dtype)
    gate.weight.normal_(0, D**-0.5)
    hidden = torch.randn(N, D, device="cuda").to(dtype)
    exact = hidden.double() @ gate.weight.double().T
    ours, theirs = gate.logits(hidden), by_torch(monkeypatch, lambda: gate.logits(hidden))
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    far, too = ((x.double() - exact).abs().max().item() for x in (ours, theirs))
    assert far <= 2 * too + 1e-6


def test_gradients_and_many_rows_are_torchs():
    many = torch.zeros(MOST_ROWS + 1, 1, 8, device="cuda")
    assert not in_one_launch(len(many), many)
    with torch.inference_mode(False), torch.enable_grad():
        learnt = torch.zeros(1, 1, 8, device="cuda", requires_grad=True)
        assert not in_one_launch(1, learnt)
        with torch.no_grad():
            assert in_one_launch(1, learnt.detach())
