"""Routers with random weights."""

import torch
from hypothesis import strategies as st

from ringlens.model.router_rule import RouterRule
from ringlens.observe.kernels.router import choose


def ring_rule(*sizes):
    """Ring's rule with other numbers of experts, k, groups, groups kept, and another factor."""
    return RouterRule(
        *sizes, score="sigmoid", bias="scores", group_score="sum_of_two", renormalised=True
    )


@st.composite
def routers(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    size = draw(st.integers(2, 5))
    kept = draw(st.integers(1, groups))
    k = draw(st.integers(1, min(kept * size, 6)))
    spec = ring_rule(groups * size, k, groups, kept, 2.5)
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([1e-4, 0.1, 1.0, 8.0]))
    logits = torch.randn(7, spec.experts, generator=g) * scale
    bias = torch.randn(spec.experts, generator=g) * draw(st.sampled_from([0.0, 0.01, 0.3]))
    return spec, logits, bias


def route(spec, logits, bias):
    s = logits.sigmoid()
    ids = choose(s + bias, spec)
    w = s.gather(1, ids)
    return w / w.sum(-1, keepdim=True) * spec.routed_scaling_factor, ids
