"""Experts whose weights are read in place, against transformers' kernels, on a GPU."""

import copy

import pytest
import tiny_lens
import torch
from transformers.integrations import moe

from ringlens.model.kernels.experts import IN_PLACE, MOST_CHOICES, in_place, read_experts_in_place
from ringlens.model.kernels.nf4 import KEPT, mixed_in_4_bits, packed_of
from ringlens.model.kernels.rows import norms_and_peaks, products
from ringlens.model.ring.configuration import BailingMoeV2Config
from ringlens.model.ring.moe import BailingMoeV2ExpertModules, BailingMoeV2Experts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

# D, F, experts, experts a token: Ring-mini's, and widths that no block divides.
SHAPES = [(2048, 512, 256, 8), (96, 40, 16, 4), (72, 24, 5, 5), (64, 16, 2, 1)]


def config_of(D, F, E, k):
    return BailingMoeV2Config(
        hidden_size=D, moe_intermediate_size=F, num_experts=E, num_experts_per_tok=k,
        n_group=1, topk_group=1, num_attention_heads=8, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip


def experts_of(D, F, E, k, dtype):
    experts = BailingMoeV2Experts(config_of(D, F, E, k)).to("cuda", dtype).requires_grad_(False)
    torch.manual_seed(0)
    for weight in (experts.gate_up_proj, experts.down_proj):
        weight.normal_(0, weight.shape[-1] ** -0.5)
    return experts


def exact(experts, hidden, ids, weights):
    """In float64, one choice at a time."""
    E, D = experts.gate_up_proj.double(), experts.down_proj.double()
    mixed = torch.zeros_like(hidden, dtype=torch.float64)
    for n, row in enumerate(ids.tolist()):
        for i, e in enumerate(row):
            gate, up = (E[e] @ hidden[n].double()).chunk(2)
            mixed[n] += weights[n, i].double() * (D[e] @ (torch.nn.functional.silu(gate) * up))
    return mixed


@pytest.mark.parametrize(("D", "F", "E", "k"), SHAPES)
@pytest.mark.parametrize("N", [1, 3, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_in_place_is_as_near_the_exact_mixture_as_copies_are(D, F, E, k, N, dtype):
    experts = experts_of(D, F, E, k, dtype)
    hidden = torch.randn(N, D, device="cuda").to(dtype)
    ids = torch.rand(N, E, device="cuda").topk(k).indices
    weights = torch.rand(N, k, device="cuda")
    wanted = exact(experts, hidden, ids, weights)
    ours = (in_place(experts, hidden, ids, weights).double() - wanted).abs().max()
    theirs = (moe.batched_mm_experts_forward(experts, hidden, ids, weights) - wanted).abs().max()
    # Float32 is summed in the order of the blocks: 2,048 products, each rounded to 6e-8.
    assert ours <= 1.5 * theirs + 2e-6 * wanted.abs().max()


def test_rows_that_all_choose_one_expert_and_repeated_choices():
    experts = experts_of(64, 32, 8, 2, torch.float32)
    hidden = torch.randn(200, 64, device="cuda")
    weights = torch.rand(200, 2, device="cuda")
    for ids in (torch.zeros(200, 2), torch.full((200, 2), 7), torch.arange(400).view(200, 2) % 3):
        ids = ids.long().cuda()
        torch.testing.assert_close(
            in_place(experts, hidden, ids, weights).double(),
            exact(experts, hidden, ids, weights),
            atol=1e-5,
            rtol=1e-5,
            check_dtype=False,
        )


def test_a_token_gives_the_same_whoever_stands_beside_it():
    """Bit for bit: rows of a block do not touch each other."""
    experts = experts_of(96, 40, 16, 4, torch.bfloat16)
    hidden = torch.randn(64, 96, device="cuda").bfloat16()
    ids = torch.rand(64, 16, device="cuda").topk(4).indices
    weights = torch.rand(64, 4, device="cuda")
    together = in_place(experts, hidden, ids, weights)
    for n in (0, 5, 63):
        row = slice(n, n + 1)
        assert torch.equal(together[row], in_place(experts, hidden[row], ids[row], weights[row]))


def test_many_tokens_run_the_grouped_kernel():
    experts = experts_of(64, 16, 8, 2, torch.bfloat16)
    N = MOST_CHOICES // 2 + 1
    hidden = torch.randn(N, 64, device="cuda").bfloat16()
    ids = torch.rand(N, 8, device="cuda").topk(2).indices
    weights = torch.rand(N, 2, device="cuda")
    wanted = moe.grouped_mm_experts_forward(experts, hidden, ids, weights)
    assert torch.equal(in_place(experts, hidden, ids, weights), wanted)


def test_a_model_reads_in_place_and_decoding_copies_nothing():
    lens = tiny_lens.lens()
    model = lens.model.to("cuda", torch.bfloat16)
    model.set_experts_implementation("grouped_mm")
    ids = torch.arange(4, 24, device="cuda").view(1, 20)
    copied = copy.deepcopy(model)
    read_experts_in_place(model)
    assert model.config._experts_implementation == IN_PLACE
    with torch.inference_mode(), model._optimize_model_for_decode():
        assert model.config._experts_implementation == IN_PLACE
        ours = model(ids[:, :3]).logits
    with torch.inference_mode(), copied._optimize_model_for_decode():
        assert copied.config._experts_implementation == "batched_mm"
        theirs = copied(ids[:, :3]).logits
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


def test_numbers_of_rows_are_torchs():
    rows = torch.randn(37, 5000, device="cuda").bfloat16()
    rows[3, 7], rows[4, 9], rows[5] = torch.inf, torch.nan, 0.0
    norm, peak = (
        torch.linalg.vector_norm(rows, ord=ord, dim=-1, dtype=torch.float32)
        for ord in (2, torch.inf)
    )
    torch.testing.assert_close(norms_and_peaks(rows), torch.stack((norm, peak)), equal_nan=True)
    a, b, r = torch.randn(3, 2, 37, 700, device="cuda").bfloat16()
    found = products(a, b, r)
    wanted = products(a.cpu(), b.cpu(), r.cpu())
    assert found.shape == (3, 2, 37)
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-2, rtol=1e-4)


def experts_in_4_bits(D, F, E, k, dtype, nested):
    bnb = pytest.importorskip("bitsandbytes").nn
    experts = BailingMoeV2ExpertModules(config_of(D, F, E, k)).to(dtype)
    torch.manual_seed(0)
    for expert in experts:
        for name in ("gate_proj", "up_proj", "down_proj"):
            plain = getattr(expert, name)
            made = bnb.Linear4bit(plain.in_features, plain.out_features, bias=False,
                                  compute_dtype=dtype, compress_statistics=nested,
                                  quant_type="nf4")  # fmt: skip
            weight = torch.randn_like(plain.weight) * plain.in_features**-0.5
            made.weight = bnb.Params4bit(weight, requires_grad=False, quant_type="nf4",
                                         compress_statistics=nested)  # fmt: skip
            setattr(expert, name, made)
    return experts.to("cuda")


def expanded(weight):
    """The numbers that 4 bits stand for, in float32."""
    import bitsandbytes.functional as bnb

    state = copy.copy(weight.quant_state)
    state.dtype = torch.float32
    return bnb.dequantize_4bit(weight, state)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("dtype", "nested"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
@pytest.mark.parametrize(("D", "F", "E", "k"), SHAPES)
@pytest.mark.parametrize("N", [1, 3, 17, 100])
def test_4_bits_in_one_launch_are_as_near_the_exact_mixture_as_modules_are(
    D, F, E, k, N, dtype, nested
):
    experts = experts_in_4_bits(D, F, E, k, dtype, nested)
    hidden = torch.randn(N, D, device="cuda").to(dtype)
    ids = torch.rand(N, E, device="cuda").topk(k).indices
    weights = torch.rand(N, k, device="cuda")
    numbers, rounded = (experts_of(D, F, E, k, kind) for kind in (torch.float32, dtype))
    for e, expert in enumerate(experts):
        gate, up, down = (expanded(getattr(expert, name).weight)
                          for name in ("gate_proj", "up_proj", "down_proj"))  # fmt: skip
        for fused in (numbers, rounded):
            fused.gate_up_proj[e], fused.down_proj[e] = torch.cat((gate, up)), down
    wanted = exact(numbers, hidden, ids, weights)
    packed = packed_of(experts)
    ours = mixed_in_4_bits(packed, hidden, ids, weights).double() - wanted
    theirs = moe.batched_mm_experts_forward(rounded, hidden, ids, weights).double() - wanted
    # All together, and with room for luck in rounding where they are few.
    luck = 2 * wanted.numel() ** -0.5
    assert ours.norm() <= (1.1 + luck) * theirs.norm() + 2e-6 * wanted.norm()


@torch.inference_mode()
def test_experts_in_4_bits_that_are_hooked_moved_copied_or_replaced_are_called():
    experts = experts_in_4_bits(64, 32, 8, 2, torch.bfloat16, nested=False)
    hidden = torch.randn(5, 64, device="cuda").bfloat16()
    ids = torch.rand(5, 8, device="cuda").topk(2).indices
    weights = torch.rand(5, 2, device="cuda")
    before = experts(hidden, ids, weights)
    seen = []
    chosen = experts[int(ids[0, 0])].down_proj
    hook = chosen.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(experts(hidden, ids, weights), before, atol=0.05, rtol=0.05)
    assert seen
    hook.remove()
    assert packed_of(experts) is not None
    copied = copy.deepcopy(experts)
    assert packed_of(copied).addresses_E3A.ne(packed_of(experts).addresses_E3A).any()
    experts.to("cuda")
    assert KEPT not in vars(experts)
    for expert in experts:
        expert.down_proj = copied[0].down_proj
    torch.testing.assert_close(
        mixed_in_4_bits(packed_of(experts), hidden, ids, weights),
        experts_called(experts, hidden, ids, weights),
        atol=0.05,
        rtol=0.05,
    )
    experts[int(ids[0, 0])].forward = torch.zeros_like
    assert packed_of(experts) is None


def experts_called(experts, hidden, ids, weights):
    mixed = torch.zeros_like(hidden, dtype=torch.float32)
    for n, row in enumerate(ids.tolist()):
        for i, e in enumerate(row):
            mixed[n] += weights[n, i] * experts[e](hidden[n : n + 1])[0]
    return mixed.to(hidden.dtype)
