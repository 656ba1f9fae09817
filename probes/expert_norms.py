"""Norms of the weights of each expert, and of its row of the gate.

Shape letters: E experts, D hidden size.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from accelerate.utils import align_module_device

from ringlens.config import refuse_unknown
from ringlens.model.family import WeightPlace
from ringlens.model.loaded import LoadedModel
from ringlens.model.quantization import plain_weight
from ringlens.observe.points import POINTS, module_at, selection_bias
from ringlens.probes.router_geometry import gates


@refuse_unknown
def expert_norms(lens: LoadedModel) -> pd.DataFrame:
    """Measure the Frobenius norms of the weights of each expert.

    Quantised weights are dequantised, one at a time.

    Args:
        lens: The model, with its experts in any layout.

    Returns:
        A row per sparse layer and expert: ``layer``, ``expert``; ``gate``, the norm of its row of
        the gate; ``reading``, the norm of its weights that read the hidden state (gate and up
        projection together); ``writing``, the norm of those that write to it; and ``bias``, its
        selection bias (NaN in routers without one).

    Raises:
        ObservationError: Layers of the model are in other processes.
        ConfigError: Weights are divided over processes, or quantised in an unknown way.
    """
    parts = []
    for layer, weight_ED in gates(lens):
        experts = module_at(lens.model, POINTS["expert_out"], layer)
        places = [lens.family.expert_places(experts, expert) for expert in range(len(weight_ED))]
        bias = selection_bias(lens.model, layer)
        norms = {
            "layer": layer,
            "expert": np.arange(len(weight_ED)),
            "gate": np.linalg.norm(weight_ED, axis=1),
            "reading": [_norm(each.reading) for each in places],
            "writing": [_norm(each.writing) for each in places],
            "bias": np.full(len(weight_ED), np.nan) if bias is None else bias.double().numpy(),
        }
        parts.append(pd.DataFrame(norms))
    return pd.concat(parts, ignore_index=True)


def _norm(places: tuple[WeightPlace, ...]) -> float:
    """Norm of several weights taken together."""
    total = 0.0
    for place in places:
        with align_module_device(place.module):  # offloaded weights are away outside of a forward
            weight = plain_weight(place)
            total += float(torch.linalg.vector_norm(weight, dtype=torch.float64) ** 2)
    return total**0.5
