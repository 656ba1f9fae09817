"""A model whose dropped experts cannot be chosen: what a pruned checkpoint computes, unwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringlens.interventions import Ablate

if TYPE_CHECKING:
    from ringlens.prune.plan import PruningPlan


def ablations(plan: PruningPlan) -> tuple[Ablate, ...]:
    """Name the interventions that keep a plan's dropped experts from being chosen.

    ``with lens.intervene(*ablations(plan))`` masks the model; `ringlens.capture` and
    `ringlens.replay` take them as ``interventions``.
    """
    dropped = {layer: plan.dropped(layer) for layer in plan.layers}
    return tuple(Ablate(layer, experts) for layer, experts in dropped.items() if experts)
