"""Control and content parts of what routers are given, token by token.

The control part of a router's input lies in the row space of its gate and makes the scores; the
content part passes the router unseen, to the experts (arXiv 2604.17837).

Shape letters: T tokens, D hidden size, R rank.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ringlens.config import refuse_unknown
from ringlens.lens import Lens
from ringlens.observe.given import TextOrIds
from ringlens.observe.inputs import token_rows
from ringlens.observe.points import gate
from ringlens.probes.router_geometry import TOLERANCE, gates, row_space


@refuse_unknown
def control_content(
    lens: Lens, text_or_ids: TextOrIds, *, tolerance: float = TOLERANCE
) -> pd.DataFrame:
    """Divide the input of each router into its control and its content part.

    Args:
        lens: The model.
        text_or_ids: As in :meth:`ringlens.lens.Lens.run_with_cache`.
        tolerance: As in `gate_spectrum`.

    Returns:
        A row per text, sparse layer and token: ``row`` of the text, ``layer``, ``pos``,
        ``token_id``; ``norm`` of the router's input; ``control``, the share of its squared length
        inside the gate's row space; ``content`` = 1 − control; and ``chance`` = rank / D, the
        control share of a random vector.

    Raises:
        ObservationError: The input is none, or layers of the model are in other processes.
    """
    bases = {layer: row_space(weight_ED, tolerance) for layer, weight_ED in gates(lens)}
    parts = []
    for row, token_ids in enumerate(token_rows(lens, text_or_ids)):
        for layer, hidden_TD in _router_inputs(lens, token_ids).items():
            parts.append(_divided(hidden_TD, bases[layer], row, layer, token_ids))
    return pd.concat(parts, ignore_index=True)


def _router_inputs(lens: Lens, token_ids: list[int]) -> dict[int, NDArray[np.float64]]:
    """Inputs [T, D] of all routers in one forward."""
    found: dict[int, NDArray[np.float64]] = {}

    def keep(layer: int, _: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        hidden = inputs[0].detach()
        found[layer] = hidden.reshape(-1, hidden.shape[-1]).double().cpu().numpy()

    with ExitStack() as hooks:
        for layer in lens.sizes.sparse_layers:
            handle = gate(lens.model, layer).register_forward_pre_hook(partial(keep, layer))
            hooks.callback(handle.remove)
        lens.run_with_hooks([token_ids], logits_to_keep=1)
    return found


def _divided(
    hidden_TD: NDArray[np.float64],
    basis_RD: NDArray[np.float64],
    row: int,
    layer: int,
    token_ids: list[int],
) -> pd.DataFrame:
    norm_T = np.linalg.norm(hidden_TD, axis=1)
    with np.errstate(invalid="ignore"):
        control_T = ((hidden_TD @ basis_RD.T) ** 2).sum(axis=1) / norm_T**2
    return pd.DataFrame(
        {
            "row": row,
            "layer": layer,
            "pos": np.arange(len(norm_T)),
            "token_id": token_ids,
            "norm": norm_T,
            "control": control_T,
            "content": 1 - control_T,
            "chance": len(basis_RD) / hidden_TD.shape[1],
        }
    )
