"""Plans of pruning without a store, and models whose dropped experts cannot be chosen.

A router computes as many numbers as there are experts, and BLAS and vectorised functions round the
last bit by how many there are. `exact` routes in float64, so that nothing else differs.
"""

import random
from functools import partial

import torch

from ringlens.model.loading import locate, read_config
from ringlens.prune.plan import PruningPlan


def random_plan(model, per_group, seed=0):
    """A plan that keeps experts at random."""
    config = read_config(locate(str(model)))
    experts, groups = config.num_experts, config.n_group
    size, rng = experts // groups, random.Random(seed)
    kept = {
        layer: tuple(
            first + e
            for first in range(0, experts, size)
            for e in sorted(rng.sample(range(size), per_group))
        )
        for layer in config.sparse_layers
    }
    facts = {"protected": None, "where": "true", "tokens": 0, "seed": seed, "carried": {}}
    return PruningPlan(str(model), "random", experts, groups, kept, **facts)


def mask(model, plan):
    """Give every dropped expert a selection score of minus infinity."""
    for layer in plan.layers:
        gate = model.model.layers[layer].mlp.gate
        bias = gate.expert_bias.clone()
        bias[list(plan.dropped(layer))] = -torch.inf
        gate.expert_bias = bias
    return model


def exact(model):
    """Route in float64; weights then round to the same float32."""
    for layer in model.config.sparse_layers:
        gate = model.model.layers[layer].mlp.gate
        gate.forward = partial(_exactly, gate)
    return model


def _exactly(gate, hidden):
    flat = hidden.reshape(-1, hidden.shape[-1]).double()
    logits, weights, ids = gate.route(flat @ gate.weight.double().T)
    return logits.float(), weights.float(), ids
