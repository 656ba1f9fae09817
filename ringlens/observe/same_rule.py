"""Whether the routers of a model choose as its family says they do.

Choices alone would not tell: a softmax and a sigmoid rank experts alike, and weigh them otherwise.

Shape letters: N tokens, D hidden size, E experts, k experts a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ringlens.errors import ObservationError
from ringlens.model.parallel import parallel_of
from ringlens.observe.kernels.router import TIE, torch_record
from ringlens.observe.points import POINTS, gate, location, selection_bias

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.model.router_rule import RouterRule

TOKENS = 16
SPREAD = 2.0
"""Standard deviation of the logits that are tried: enough to tell score functions apart."""

CLOSE = 0.02
"""Weights may differ by this share: routers may round them to bfloat16."""


@torch.no_grad()
def check_same_rule(model: LoadedModel, layers: Sequence[int]) -> None:
    """Refuse a model whose router does not follow the rule of its family.

    One router is tried, on made-up tokens, without its hooks.

    Args:
        model: The model.
        layers: Its layers in this process.

    Raises:
        ObservationError: Its weights or its choice are others than the rule's.
    """
    sparse = [layer for layer in layers if layer in model.sizes.sparse_layers]
    if not sparse or parallel_of(model.model).world_size > 1:
        return  # parts of a divided model take inputs that only its own forward makes
    rule, (logits_NE, weights_Nk, ids_Nk) = model.router, _tried(model, sparse[0])
    bias_E = selection_bias(model.model, sparse[0])
    bias_E = torch.zeros(rule.experts) if bias_E is None else bias_E
    found = torch_record(logits_NE, weights_Nk, ids_Nk, bias_E.to(logits_NE), rule)
    tied_N = torch.minimum(found.margin_N, found.group_margin_N) <= TIE
    wanted_Nk = _weights(found.affinities_Nk, rule)
    close_Nk = (found.weights_Nk - wanted_Nk).abs() <= CLOSE * wanted_Nk.abs()
    finite_N = wanted_Nk.isfinite().all(dim=-1) & found.margin_N.isnan().logical_not()
    right_N = (found.same_N | tied_N) & close_Nk.all(dim=-1) & finite_N
    if 2 * int(right_N.sum()) < int(finite_N.sum()):  # a wrong rule is wrong nearly everywhere
        raise ObservationError(
            f"the routers of {model.name} do not choose as its family says ({rule}): of {TOKENS} "
            f"tokens tried on layer {sparse[0]}, {int(right_N.sum())} agree. Its records would be "
            "wrong; correct the router rule of the family."
        )


def _tried(model: LoadedModel, layer: int) -> list[Tensor]:
    """Logits, weights and choice of a router for tokens whose logits are spread well."""
    router = gate(model.model, layer)
    names = ("router_logits", "router_weights", "router_choice")
    items = [location(POINTS[name], model.config).item or 0 for name in names]
    weight = next(router.parameters())
    device = model.device if weight.is_meta else weight.device  # offloaded: fetched to run
    x_ND = torch.arange(TOKENS * model.sizes.hidden_size, device=device).float()
    x_ND = (1.7 * x_ND).sin().view(TOKENS, -1)
    logits_NE = router.forward(x_ND.to(weight.dtype)[None])[items[0]].float()
    scale = SPREAD / logits_NE.std().clamp(min=1e-6).to(device)
    output = router.forward((scale * x_ND).to(weight.dtype)[None])
    return [output[item] for item in items]


def _weights(affinities_Nk: Tensor, rule: RouterRule) -> Tensor:
    """The weights that the rule gives to chosen experts."""
    if rule.renormalised or rule.score == "softmax_chosen":
        affinities_Nk = affinities_Nk / affinities_Nk.sum(dim=-1, keepdim=True)
    return affinities_Nk * rule.routed_scaling_factor
