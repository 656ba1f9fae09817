"""A slow, plain router under interventions: one token, one expert at a time.

Written from the definitions in docs/acting.md; shares no code with ringlens but the objects.
"""

import math

import numpy as np

from ringlens.interventions import Ablate, Boost, Force, RouteAround, Scale, Swap


def routed(rule, logits, bias, acts):
    """Expert id → weight of one token, in float32 as the model computes."""
    one = np.float32(1)
    s = [one / (one + np.exp(-np.float32(z))) for z in logits]
    c = [a + np.float32(b) for a, b in zip(s, bias, strict=True)]
    size = rule.experts // rule.groups

    def named(kind):
        return {e for act in acts if isinstance(act, kind) for e in act.ids}

    for act in acts:
        if isinstance(act, Boost):
            for e in act.ids:
                c[e] = np.float32(c[e] + np.float32(act.by))
    for e in named(Ablate):
        c[e] = -math.inf
    groups = {g: sum(sorted(c[g * size : (g + 1) * size])[-2:]) for g in range(rule.groups)}
    for e in named(Boost) | named(Force):
        groups[e // size] = math.inf
    kept = sorted(groups, key=lambda g: -groups[g])[: rule.groups_kept]
    allowed = [e for g in kept for e in range(g * size, (g + 1) * size)]
    allowed = [e for e in allowed if e not in named(RouteAround) and c[e] > -math.inf]
    forced = named(Force)
    chosen = sorted(allowed, key=lambda e: (e not in forced, -c[e]))[: rule.experts_per_token]
    assert len(chosen) == rule.experts_per_token
    sum_s = sum(float(s[e]) for e in chosen)
    weights = {e: float(s[e]) / sum_s * rule.routed_scaling_factor for e in chosen}
    for act in acts:
        if isinstance(act, Swap):
            a, b = act.ids
            weights = {{a: b, b: a}.get(e, e): w for e, w in weights.items()}
        elif isinstance(act, Scale):
            weights = {e: w * (act.factor if e in act.ids else 1) for e, w in weights.items()}
    return weights
