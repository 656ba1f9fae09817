"""A model whose dropped experts cannot be chosen: what a pruned checkpoint computes, unwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ringlens.errors import ObservationError
from ringlens.observe.points import gate

if TYPE_CHECKING:
    from torch import Tensor

    from ringlens.model.loaded import LoadedModel
    from ringlens.prune.plan import PruningPlan


@contextmanager
def masked(lens: LoadedModel, plan: PruningPlan) -> Iterator[None]:
    """Give dropped experts a selection score of minus infinity, as long as the block runs.

    Afterwards the routers are what they were, also when the block raised.

    Raises:
        ObservationError: The routers have no selection bias, or it is on the disk.
    """
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for layer in plan.layers:
            bias_E = _bias(lens, layer)
            before.append((bias_E, bias_E.clone()))
            with torch.no_grad():
                bias_E[list(plan.dropped(layer))] = -torch.inf
        yield
    finally:
        with torch.no_grad():
            for bias_E, kept_E in before:
                bias_E.copy_(kept_E)


def _bias(lens: LoadedModel, layer: int) -> Tensor:
    """The selection bias itself, no copy."""
    found = lens.family.selection_bias(gate(lens.model, layer))
    if found is None or found.is_meta:
        why = "has no selection bias" if found is None else "is offloaded"
        raise ObservationError(
            f"{lens.name}: the router of layer {layer} {why}, so that its experts cannot be "
            "masked. Write the pruned checkpoint with --export, and capture with it."
        )
    return found
