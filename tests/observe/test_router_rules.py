"""Every router rule: torch against plain Python, a store's check against both, and rounding."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlens.errors import ConfigError
from ringlens.model.router_rule import WORDS, RouterRule
from ringlens.observe.kernels.router import (
    choose,
    contains,
    has_kernel,
    refuse_other_choice,
    rounded_logits,
    selection_scores,
    storable_logits,
    torch_record,
)
from ringlens.store.check import verify
from ringlens.store.schema.runs import ROUTER_WORDS


@st.composite
def ruled(draw):
    """A rule, logits [7, E] and a bias [E]."""
    words = {name: draw(st.sampled_from(known)) for name, known in WORDS.items()}
    groups = 1 if words["group_score"] == "none" else draw(st.sampled_from([1, 2, 4]))
    size, kept = draw(st.integers(2, 5)), draw(st.integers(1, groups))
    k = draw(st.integers(1, min(kept * size, 6)))
    rule = RouterRule(
        groups * size, k, groups, kept, draw(st.sampled_from([1.0, 2.5])), **words,
        renormalised=draw(st.booleans()),
    )  # fmt: skip
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([1e-4, 0.1, 1.0, 8.0]))
    logits = torch.randn(7, rule.experts, generator=g) * scale
    return rule, logits, torch.randn(rule.experts, generator=g) * draw(st.sampled_from([0.0, 0.3]))


def plain_affinities(z, rule):
    if rule.score == "sigmoid":
        return [1 / (1 + math.exp(-x)) for x in z]
    if rule.score == "sqrt_softplus":
        return [math.sqrt(math.log1p(math.exp(x))) for x in z]
    powers = [math.exp(x - max(z)) for x in z]
    return [p / sum(powers) for p in powers]


def plain_choice(z, b, rule):
    """Chosen experts of one token as a set, and the scores, the long way."""
    shifted = [x + y for x, y in zip(z, b, strict=True)] if rule.bias == "logits" else z
    scores = shifted if rule.score == "softmax_chosen" else plain_affinities(shifted, rule)
    if rule.bias == "scores":
        scores = [x + y for x, y in zip(scores, b, strict=True)]
    size = rule.experts // rule.groups
    members = [range(g * size, (g + 1) * size) for g in range(rule.groups)]
    best = [sorted((scores[e] for e in group), reverse=True) for group in members]
    ranks = [sum(each[:2]) if rule.group_score == "sum_of_two" else each[0] for each in best]
    kept = sorted(range(rule.groups), key=lambda g: -ranks[g])[: rule.groups_kept]
    open_to = [e for g in kept for e in members[g]]
    return set(sorted(open_to, key=lambda e: -scores[e])[: rule.experts_per_token]), scores


def record_of(rule, logits, bias):
    """The record of what a router with this rule gives."""
    ids = choose(selection_scores(logits, bias, rule), rule)
    weights = torch.tensor([plain_affinities(z, rule) for z in logits.tolist()]).gather(1, ids)
    return torch_record(logits, weights, ids, bias, rule), ids


@settings(max_examples=150)
@given(ruled())
def test_choices_follow_the_rule(router):
    rule, logits, bias = router
    found = choose(selection_scores(logits.double(), bias, rule), rule)
    record, _ = record_of(rule, logits, bias)
    for row, z in enumerate(logits.double().tolist()):
        chosen, scores = plain_choice(z, bias.double().tolist(), rule)
        assert set(found[row].tolist()) == chosen
        torch.testing.assert_close(
            selection_scores(logits.double(), bias, rule)[row], torch.tensor(scores).double()
        )
        affinities = torch.tensor(plain_affinities(z, rule))
        ids = record.expert_ids_Nk[row]
        torch.testing.assert_close(record.affinities_Nk[row], affinities[ids])
        share = affinities / affinities.sum()
        torch.testing.assert_close(record.entropy_N[row], torch.special.entr(share).sum())
    assert record.same_N.all()


@settings(max_examples=150)
@given(ruled())
def test_the_check_of_a_store_follows_the_rule(router):
    rule, logits, bias = router
    scores = verify.scores(logits.double().numpy(), bias.double().numpy(), rule.words)
    sizes = (rule.groups, rule.groups_kept, rule.experts_per_token)
    flags = verify.select(scores, *sizes, rule.group_score)
    ids = choose(selection_scores(logits.double(), bias, rule), rule).numpy()
    wanted = np.zeros_like(flags)
    np.put_along_axis(wanted, ids, True, axis=1)
    assert (flags == wanted).all()


@settings(max_examples=150)
@given(ruled())
def test_stored_logits_give_the_recorded_choice(router):
    rule, logits, bias = router
    record, ids = record_of(rule, logits, bias)
    stored, doubtful = rounded_logits(logits, record.margin_N, record.group_margin_N, rule)
    stored[doubtful] = storable_logits(logits[doubtful], ids[doubtful], bias, rule)
    again = choose(selection_scores(stored.double(), bias, rule), rule)
    same = contains(ids, again).all(dim=-1)
    tied = torch.minimum(record.margin_N, record.group_margin_N) < 1e-6
    assert (same | tied).all()
    assert same[~doubtful].all()


@settings(max_examples=100)
@given(ruled())
def test_what_a_rule_lacks_flips_nothing(router):
    rule, logits, bias = router
    record, _ = record_of(rule, logits, bias)
    if rule.bias == "none":
        assert not record.bias_flips_Nk.any()
    if rule.groups == rule.groups_kept:
        assert record.group_margin_N.isinf().all()
        assert not record.group_flips_Nk.any()
    others = ids_of_others(rule, record)
    if others is not None and not rule.groups > 1:
        far = record.margin_N > 1e-3
        changed = torch_record(logits, record.weights_Nk, others, bias, rule)
        assert not changed.same_N[far].any()


def ids_of_others(rule, record):
    """As many experts that were not chosen; None where there are too few."""
    if 2 * rule.experts_per_token > rule.experts:
        return None
    free = torch.ones(len(record.margin_N), rule.experts).scatter_(1, record.expert_ids_Nk, 0.0)
    return free.topk(rule.experts_per_token, dim=-1).indices


def test_a_swapped_choice_is_refused():
    rule = RouterRule(
        4, 1, 1, 1, 1.0, score="softmax", bias="none", group_score="none", renormalised=False
    )
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    record = torch_record(logits, torch.ones(1, 1), torch.tensor([[0]]), torch.zeros(4), rule)
    with pytest.raises(Exception, match="does not follow from its logits"):
        refuse_other_choice(record.same_N, record.margin_N, record.expert_ids_Nk)


def test_the_kernel_takes_what_it_computes_and_nothing_else():
    for score, bias, group_score in product(*WORDS.values()):
        groups = 1 if group_score == "none" else 2
        rule = RouterRule(
            4, 1, groups, 1, 1.0, score=score, bias=bias, group_score=group_score,
            renormalised=True,
        )  # fmt: skip
        ring = (score, bias) == ("sigmoid", "scores") and group_score != "maximum"
        assert has_kernel(rule) == ring


def test_model_and_store_speak_of_rules_in_the_same_words():
    assert WORDS == ROUTER_WORDS


@pytest.mark.parametrize(
    ("sizes", "words", "says"),
    [
        ((8, 2, 2, 1), {"score": "tanh"}, "score = 'tanh'"),
        ((8, 5, 2, 1), {}, "5 of 8 experts in 1 of 2 groups"),
        ((7, 2, 2, 1), {}, "2 of 7 experts"),
        ((8, 2, 2, 1), {"group_score": "none"}, "2 groups, but no score"),
        ((4, 1, 4, 2), {}, "groups of one expert"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(sizes, words, says):
    ring = {"score": "sigmoid", "bias": "scores", "group_score": "sum_of_two"}
    with pytest.raises(ConfigError, match=says):
        RouterRule(*sizes, 1.0, **(ring | words), renormalised=True)
