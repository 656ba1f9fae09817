"""Experts shared out over processes: each computes its own choices, in one process here."""

import copy

import pytest
import torch
from torch import nn
from transformers.integrations import moe

from ringlens.model.expert_outputs import WATCHED, shown_by_kernel
from ringlens.model.kernels.experts import IN_PLACE, in_place, read_experts_in_place
from ringlens.model.ring.configuration import BailingMoeV2Config
from ringlens.model.ring.moe import BailingMoeV2Experts

E, D, F, K, N = 8, 16, 24, 3, 40


def experts_of(numbers):
    """The experts of one process, those of these numbers."""
    config = BailingMoeV2Config(
        hidden_size=D, moe_intermediate_size=F, num_experts=E, num_experts_per_tok=K,
        n_group=1, topk_group=1, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    module = BailingMoeV2Experts(config).requires_grad_(False)
    torch.manual_seed(1)
    for weight in (module.gate_up_proj, module.down_proj):
        weight.normal_(0, weight.shape[-1] ** -0.5)
    module.gate_up_proj = nn.Parameter(module.gate_up_proj[numbers.start : numbers.stop])
    module.down_proj = nn.Parameter(module.down_proj[numbers.start : numbers.stop])
    module.num_experts, module._is_expert_parallel = len(numbers), len(numbers) < E
    return module


def told(ids, weights, numbers):
    """Ids and weights as transformers gives them to the process of these experts."""
    elsewhere = (ids < numbers.start) | (ids >= numbers.stop)
    return (ids - numbers.start).masked_fill(elsewhere, len(numbers)), weights.masked_fill(
        elsewhere, 0.0
    )


@pytest.fixture
def given():
    torch.manual_seed(0)
    hidden, weights = torch.randn(N, D), torch.rand(N, K)
    return hidden, torch.rand(N, E).topk(K).indices, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_of_all_processes_are_the_whole(given, dtype):
    hidden, ids, weights = given[0].to(dtype), *given[1:]
    whole = experts_of(range(E)).to(dtype)
    wanted = moe.grouped_mm_experts_forward(whole, hidden, ids, weights).float()
    mixed = torch.zeros(N, D)
    for numbers in (range(3), range(3, E)):
        module = experts_of(numbers).to(dtype)
        mine = told(ids, weights, numbers)
        part = in_place(module, hidden, *mine)
        # What transformers computes of the same, over the choices of all.
        masked = moe.grouped_mm_experts_forward(module, hidden, *copy.deepcopy(mine))
        atol = 1e-6 if dtype == torch.float32 else 0.01
        torch.testing.assert_close(part, masked, atol=atol, rtol=1e-5)
        mixed += part.float()
    near = 1e-5 if dtype == torch.float32 else 0.02
    assert (mixed - wanted).abs().max() < near


def test_no_choice_is_its_own(given):
    hidden, ids, weights = given
    module = experts_of(range(4))
    part = in_place(module, hidden, torch.full_like(ids, 4), torch.zeros_like(weights))
    assert part.shape == (N, D) and not part.any()


def test_who_watches_sees_the_outputs_of_own_choices(given):
    hidden, ids, weights = given
    whole, numbers = experts_of(range(E)), range(3, E)
    outputs = {}
    for module, mine in ((whole, (ids, weights)), (experts_of(numbers), told(*given[1:], numbers))):
        seen = outputs[len(outputs)] = torch.zeros(N * K, D)
        module.__dict__[WATCHED] = lambda out, places, seen=seen: seen.index_copy_(0, places, out)
        module.config._experts_implementation_internal = IN_PLACE
        run = lambda *given, module=module: in_place(module, *given)  # noqa: E731
        shown_by_kernel(module, run, hidden, *mine, module.num_experts)
    own = ((ids >= 3) & (ids < E)).flatten()
    torch.testing.assert_close(outputs[1][own], outputs[0][own])
    assert not outputs[1][~own].any()


def test_a_model_that_shares_its_experts_runs_them_so_without_triton():
    class Model(nn.Module):
        def __init__(self, experts):
            super().__init__()
            self.experts, self.config = experts, experts.config

        def set_experts_implementation(self, name):
            self.config._experts_implementation_internal = name

    model = Model(experts_of(range(4)))
    model.set_experts_implementation("grouped_mm")
    read_experts_in_place(model)
    assert model.config._experts_implementation == IN_PLACE
    assert moe.ALL_EXPERTS_FUNCTIONS[IN_PLACE] is in_place
