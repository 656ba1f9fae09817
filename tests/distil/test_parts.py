"""The parts of a distillation against their definitions."""

import math

import numpy as np
import pytest
import tiny_lens
import torch
from hypothesis import given
from hypothesis import strategies as st

from ringlens.distil import divergence as measured
from ringlens.distil.balance import Balancer
from ringlens.distil.texts import Text, batches, ordered, split

LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=40)


def made(lengths):
    return [
        Text(f"p{i % 7}", np.arange(n) + 100 * i, np.append(np.arange(n - 1) % 2 == 0, False))
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_is_the_sum_that_it_says_it_is(monkeypatch, temperature):
    monkeypatch.setattr(measured, "_LOGITS", 3 * 11)  # three positions at a time
    torch.manual_seed(0)
    heads = [torch.nn.Linear(size, 11, bias=False) for size in (5, 8)]
    student, teacher = torch.randn(7, 5, requires_grad=True), torch.randn(7, 8)
    loss, agreed = measured.divergence((student, heads[0]), (teacher, heads[1]), 11, temperature)
    loss.backward()
    got = student.grad.clone()
    student.grad = None
    goal = (heads[1](teacher).double() / temperature).softmax(-1).detach()
    found = (heads[0](student).double() / temperature).softmax(-1)
    wanted = (goal * (goal.log() - found.log())).sum() * temperature**2
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(got, student.grad, rtol=1e-4, atol=1e-6)
    assert agreed.item() == (found.argmax(-1) == goal.argmax(-1)).sum().item()


@given(lengths=LENGTHS, most=st.integers(2, 90), seed=st.integers(0, 5))
def test_every_text_comes_once_before_any_comes_again(lengths, most, seed):
    texts, tokens = made(lengths), sum(lengths)
    again = batches(texts, most, seed)
    seen = 0
    firsts = []
    for batch in batches(texts, most, seed):
        other = next(again)
        assert np.array_equal(batch.ids_BT, other.ids_BT)
        assert batch.ids_BT.size <= most or len(batch.ids_BT) == 1
        assert not (batch.learnt_BT & ~batch.inside_BT).any()
        firsts += batch.ids_BT[:, 0].tolist()
        seen += batch.tokens
        if seen >= tokens:
            break
    assert seen == tokens
    assert sorted(firsts) == [100 * i for i in range(len(lengths))]


@given(lengths=LENGTHS, size=st.integers(1, 5))
def test_processes_share_a_batch_out(lengths, size):
    for batch in ordered(made(lengths), 60):
        parts = [batch.part(rank, size) for rank in range(size)]
        own = [part for part in parts if part is not None]
        assert sum(len(part.ids_BT) for part in own) == len(batch.ids_BT)
        assert sum(int(part.learnt_BT.sum()) for part in own) == int(batch.learnt_BT.sum())


@given(lengths=st.lists(st.integers(2, 9), min_size=2, max_size=30), share=st.floats(0.01, 0.9))
def test_a_problem_is_learnt_from_or_held_out(lengths, share):
    texts = made(lengths)
    learnt, held_out = split(texts, share, 0)
    of_learnt, of_held = ({text.problem for text in some} for some in (learnt, held_out))
    assert of_learnt and of_held and not of_learnt & of_held
    assert len(learnt) + len(held_out) == len(texts)
    wanted = min(math.ceil(share * min(7, len(texts))), min(7, len(texts)) - 1)
    assert len(of_held) == wanted


def test_loads_are_those_of_real_tokens_and_biases_move_against_them():
    lens = tiny_lens.lens()
    balancer = Balancer(lens)
    ids = torch.tensor([[74, 276, 166, 285], [37, 184, 184, 184]])
    inside = torch.tensor([[True] * 4, [True, True, False, False]])
    _, cache = lens.run_with_cache(ids, "router_choice")
    load_LE = balancer.loads(inside.flatten())
    for row, layer in enumerate(lens.sizes.sparse_layers):
        chosen = cache["router_choice", layer][inside]
        wanted = torch.bincount(chosen.flatten(), minlength=lens.sizes.router.experts)
        assert torch.equal(load_LE[row], wanted)
    before = [bias.clone() for bias in balancer.biases]
    balancer.move(load_LE, 0.25)
    for old, bias, load in zip(before, balancer.biases, load_LE, strict=True):
        mean = load.float().mean()
        assert (bias[load < mean] > old[load < mean]).all()
        assert (bias[load > mean] < old[load > mean]).all()
        assert ((bias - old).abs() - 0.25 < 1e-6).all()
