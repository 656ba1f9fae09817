"""The kernel of the router record against torch, on a GPU."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from random_routers import ring_rule, route, routers

from ringlens.model.router_rule import RouterRule
from ringlens.observe.instruments.routing import record_of as router_record
from ringlens.observe.kernels.router import (
    TIE,
    RouterRecord,
    affinities,
    best,
    choose,
    limit_groups,
    refuse_other_choice,
    selection_scores,
    torch_record,
)

if torch.cuda.is_available():
    from ringlens.observe.kernels.router_triton import record_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

RING = ring_rule(256, 8, 8, 4, 2.5)
SPECS = (
    RING,
    ring_rule(256, 1, 8, 8, 1.0),
    ring_rule(15, 3, 5, 2, 2.5),
    ring_rule(18, 15, 6, 5, 2.5),
    ring_rule(12, 4, 3, 1, 2.5),
    ring_rule(384, 6, 8, 4, 2.5),
    ring_rule(1024, 8, 1, 1, 2.5),
    ring_rule(1000, 7, 10, 3, 2.5),
)


def on_gpu(spec, N, scale, bias_scale):
    g = torch.Generator("cuda").manual_seed(0)
    logits = torch.randn(N, spec.experts, generator=g, device="cuda") * scale
    return logits, torch.randn(spec.experts, generator=g, device="cuda") * bias_scale


def untied(logits, bias, spec):
    """Rows where no two scores that decide anything come close: there the record is determined."""
    scores = logits.double().sigmoid()
    margins = [best(scores + bias.double(), rank + 1)[1] for rank in range(spec.experts_per_token)]
    for c in (scores + bias.double(), scores):
        limited, groups = limit_groups(c, spec)
        margins.append(best(limited, spec.experts_per_token)[1])
        margins.append(best(groups, spec.groups_kept)[1])
    return torch.stack(margins).amin(dim=0) > TIE


def assert_as_torch(logits, bias, spec):
    """Both records of one choice; returns how many rows were free of ties."""
    weights, ids = route(spec, logits, bias)
    found = router_record(logits, weights, ids, bias, spec)
    wanted = torch_record(logits, weights, ids, bias, spec)
    rows = untied(logits, bias, spec)
    for field in fields(RouterRecord):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device), field.name
        if a.dtype == torch.float32:
            torch.testing.assert_close(a, b, rtol=0, atol=4e-6, equal_nan=True, msg=field.name)
        else:
            assert torch.equal(a[rows], b[rows]), field.name
    assert torch.equal(found.expert_ids_Nk, wanted.expert_ids_Nk)
    refuse_other_choice(
        found.same_N, torch.minimum(found.margin_N, found.group_margin_N), found.expert_ids_Nk
    )
    return int(rows.sum())


@settings(deadline=None, max_examples=40)  # most compile a kernel anew
@given(routers())
def test_kernel_on_random_routers(router):
    spec, logits, bias = router
    assert_as_torch(logits.cuda(), bias.cuda(), spec)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("N", [1, 100, 3000])
def test_kernel_on_many_shapes(spec, N):
    untied_rows = assert_as_torch(*on_gpu(spec, N, 3.0, 0.05), spec)
    assert untied_rows >= int(0.9 * N)  # a single row may be tied


@pytest.mark.parametrize("scale", [0.0, 1e-4, 20.0, 100.0])
def test_kernel_on_ties_and_extremes(scale):
    """At ±20 affinities are 1 or 2e-9, at ±100 1 or 0: only their values are determined."""
    logits, bias = on_gpu(RING, 100, 1.0, 0.05)
    logits = logits.sign() * scale if scale >= 1 else logits * scale
    assert_as_torch(logits, bias, RING)
    assert_as_torch(logits, torch.zeros_like(bias), RING)


def test_of_equal_scores_the_lower_index_wins():
    logits, bias = on_gpu(RING, 3, 0.0, 0.0)
    first = torch.arange(8, device="cuda").expand(3, 8)
    weights = torch.full((3, 8), 0.125, device="cuda")
    record = router_record(logits, weights, first.contiguous(), bias, RING)
    assert torch.equal(record.unlimited_ids_Nk, first)
    assert torch.equal(record.expert_ids_Nk, first)
    assert record.same_N.all()
    assert not record.bias_flips_Nk.any()
    assert not record.group_flips_Nk.any()
    assert (record.margin_N == 0).all()


def test_kernel_takes_views_and_no_rows():
    logits, bias = on_gpu(RING, 9, 3.0, 0.05)
    assert assert_as_torch(logits.T.contiguous().T, bias, RING) > 0
    assert_as_torch(logits[:0], bias, RING)


def test_a_choice_that_is_not_the_logits_is_not_the_same():
    logits, bias = on_gpu(RING, 50, 3.0, 0.05)
    weights, ids = route(RING, logits, bias)
    other = (ids + 1) % RING.experts
    found = router_record(logits, weights, other, bias, RING)
    assert torch.equal(found.same_N, torch_record(logits, weights, other, bias, RING).same_N)
    assert not found.same_N.any()
    nowhere = torch.full_like(ids, 10**9)  # torch's gather would end the process
    assert not router_record(logits, weights, nowhere, bias, RING).same_N.any()


def test_not_a_number_stays_one():
    logits, bias = on_gpu(RING, 4, 3.0, 0.05)
    weights, ids = route(RING, logits, bias)
    logits[1] = torch.nan
    record = router_record(logits, weights, ids, bias, RING)
    assert record.entropy_N.isnan().tolist() == [False, True, False, False]
    assert record.margin_N.isnan().tolist() == [False, True, False, False]
    assert ((record.unlimited_ids_Nk >= 0) & (record.unlimited_ids_Nk < RING.experts)).all()


@pytest.mark.parametrize(
    "words",
    [
        {"score": "softmax", "bias": "none", "group_score": "none"},
        {"score": "softmax_chosen", "bias": "logits", "group_score": "none"},
        {"score": "sqrt_softplus", "bias": "scores", "group_score": "maximum"},
        {"score": "sigmoid", "bias": "scores", "group_score": "maximum"},
        {"score": "sigmoid", "bias": "none", "group_score": "none"},
    ],
    ids=lambda words: "-".join(words.values()),
)
def test_rules_without_a_kernel_take_torch(words):
    groups = (1, 1) if words["group_score"] == "none" else (8, 4)
    rule = RouterRule(64, 4, *groups, 1.0, **words, renormalised=True)
    logits, bias = on_gpu(rule, 50, 3.0, 0.05)
    ids = choose(selection_scores(logits, bias, rule), rule)
    weights = affinities(logits, rule).gather(1, ids)
    found = router_record(logits, weights, ids, bias, rule)
    wanted = torch_record(*(x.cpu() for x in (logits, weights, ids, bias)), rule)
    rows = (wanted.margin_N > TIE) & (wanted.group_margin_N > TIE)
    assert rows.sum() > 40
    assert found.same_N.all()
    assert torch.equal(found.expert_ids_Nk.cpu()[rows], wanted.expert_ids_Nk[rows])
    close = {"rtol": 1e-4, "atol": 1e-5}
    for name in ("affinities_Nk", "margin_N", "group_margin_N", "entropy_N"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(wanted, name), **close)
    nowhere = torch.full_like(ids, 10**9)
    assert not router_record(logits, weights, nowhere, bias, rule).same_N.any()
    with pytest.raises(ValueError, match="use torch_record"):
        record_rows(logits, weights, ids, bias, rule)
