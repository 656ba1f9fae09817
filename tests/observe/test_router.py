"""The router record and the storable logits, as properties over random routers and exact ties."""

import pytest
import torch
from hypothesis import given, settings
from random_routers import ring_rule, route, routers

from ringlens.errors import ObservationError
from ringlens.observe.kernels.router import (
    choose,
    contains,
    refuse_other_choice,
    rounded_logits,
    storable_logits,
)
from ringlens.observe.kernels.router import (
    torch_record as router_record,
)


def same_sets(a, b):
    return torch.equal(a.sort(dim=-1).values, b.sort(dim=-1).values)


@settings(deadline=None, max_examples=200)
@given(routers())
def test_choice_recomputed_from_stored_logits_is_the_recorded_one(router):
    spec, logits, bias = router
    _, ids = route(spec, logits, bias)
    stored = storable_logits(logits, ids, bias, spec)
    again = choose(stored.double().sigmoid() + bias.double(), spec)
    same = contains(ids, again).all(dim=-1)
    record = router_record(logits, *route(spec, logits, bias), bias, spec)
    tied = torch.minimum(record.margin_N, record.group_margin_N) == 0  # affinities rounded to 1
    assert (same | (tied & (logits.sigmoid() == 1).any(dim=-1))).all()
    rounded = (stored == logits.half().float()).all(dim=-1)
    near = ((stored - logits).abs() <= 1e-4 * logits.abs().clamp(min=1)).all(dim=-1)
    assert (rounded | near).all()


@settings(deadline=None, max_examples=100)
@given(routers())
def test_record_does_not_depend_on_the_order_of_the_choice(router):
    spec, logits, bias = router
    weights, ids = route(spec, logits, bias)
    flipped = router_record(logits, weights.flip(1), ids.flip(1), bias, spec)
    record = router_record(logits, weights, ids, bias, spec)
    assert same_sets(record.expert_ids_Nk, flipped.expert_ids_Nk)
    assert torch.equal(record.weights_Nk, flipped.weights_Nk)
    assert (record.weights_Nk.diff(dim=-1) <= 0).all()
    assert (record.margin_N >= 0).all()
    assert (record.group_margin_N >= 0).all()


@settings(deadline=None, max_examples=100)
@given(routers())
def test_flips_vanish_without_their_cause(router):
    spec, logits, _ = router
    unbiased = torch.zeros(spec.experts)
    record = router_record(logits, *route(spec, logits, unbiased), unbiased, spec)
    assert not record.bias_flips_Nk.any()
    if spec.groups == spec.groups_kept:
        assert not record.group_flips_Nk.any()
        assert record.group_margin_N.isinf().all()


@pytest.mark.parametrize("gap", [0.0, 1e-8, 1e-7])
def test_ties_are_stored_so_that_the_choice_follows(gap):
    spec = ring_rule(8, 2, 2, 1, 1.0)
    logits = torch.zeros(3, 8)
    logits[1] += gap
    logits[2, 5] = gap
    for chosen in ([0, 1], [2, 3], [6, 7]):
        ids = torch.tensor([chosen] * 3)
        stored = storable_logits(logits, ids, torch.zeros(8), spec)
        assert same_sets(choose(stored.double().sigmoid(), spec), ids)
        assert (stored - logits).abs().max() < 1e-4


def test_logits_beyond_fp16_keep_float32():
    spec = ring_rule(4, 1, 2, 1, 1.0)
    logits = torch.tensor([[7e4, -7e4, 1.0, 2.0]])
    _, ids = route(spec, logits, torch.zeros(4))
    stored = storable_logits(logits, ids, torch.zeros(4), spec)
    assert torch.equal(stored, logits)


def test_a_router_with_its_outputs_in_another_order_is_refused():
    spec = ring_rule(8, 2, 2, 1, 1.0)
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    weights, ids = route(spec, logits, torch.zeros(8))
    other = (ids + 1) % 8
    record = router_record(logits, weights, other, torch.zeros(8), spec)
    assert router_record(logits, weights, ids, torch.zeros(8), spec).same_N.all()
    with pytest.raises(ObservationError, match="does not follow from its logits"):
        refuse_other_choice(record.same_N, record.margin_N, other)


@settings(deadline=None, max_examples=200)
@given(routers())
def test_rounding_changes_a_choice_only_where_it_may(router):
    spec, logits, bias = router
    record = router_record(logits, *route(spec, logits, bias), bias, spec)
    stored, doubtful = rounded_logits(logits, record.margin_N, record.group_margin_N, spec)
    assert torch.equal(stored[doubtful], logits[doubtful])
    exact = storable_logits(logits, record.expert_ids_Nk, bias, spec)
    assert torch.equal(stored[~doubtful], exact[~doubtful])


def test_a_choice_that_no_tie_explains_is_not_stored():
    spec = ring_rule(4, 1, 1, 1, 1.0)
    logits = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 3.0]])
    with pytest.raises(ObservationError, match=r"choice \[2\] for token 0 does not follow"):
        storable_logits(logits, torch.tensor([[0], [2]]), torch.zeros(4), spec)


def test_margin_is_infinite_where_nothing_is_left_to_lose():
    spec = ring_rule(4, 2, 2, 1, 1.0)
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    record = router_record(logits, *route(spec, logits, torch.zeros(4)), torch.zeros(4), spec)
    assert record.margin_N.isinf().all()
    assert record.group_margin_N.isfinite().all()


def test_contains():
    ids, others = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 5], [3, 4]])
    assert contains(ids, others).tolist() == [[False, True], [True, True]]
