"""Geometry of the gates: what of the residual stream a router can see.

A router scores its experts by W h, with h the normalised residual stream that it is given. The row
space of W holds the control part of h: the rest, the content part, changes no score (arXiv
2604.17837).

Shape letters: E experts, D hidden size, R rank, L sparse layers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ringlens.config import refuse_unknown
from ringlens.errors import ObservationError
from ringlens.model.loaded import LoadedModel
from ringlens.model.parallel import parallel_of
from ringlens.observe.points import router_weight

TOLERANCE = 1e-3
"""Part of the largest singular value up to which others count as zero: rounding of the weights."""


@refuse_unknown
def gate_spectrum(lens: LoadedModel, *, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Measure the singular values of each gate.

    Args:
        lens: The model.
        tolerance: Singular values up to this part of the largest count as zero.

    Returns:
        A row per sparse layer: ``layer``, ``experts`` E, ``hidden_size`` D; ``rank``, the number of
        singular values above tolerance · σ₁; ``effective_rank``, exp of the entropy of σ / Σσ (Roy
        and Vetterli 2007); ``stable_rank`` = Σσ² / σ₁²;
        ``norm``, √Σσ²; and ``singular_values``, all σ in descending order.
    """
    rows = []
    for layer, weight_ED in gates(lens):
        sigma = np.linalg.svd(weight_ED, compute_uv=False)
        share = sigma[sigma > 0] / sigma.sum()
        E, D = weight_ED.shape
        rows.append(
            {
                "layer": layer,
                "experts": E,
                "hidden_size": D,
                "rank": int((sigma > tolerance * sigma[0]).sum()),
                "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
                "stable_rank": float((sigma**2).sum() / sigma[0] ** 2),
                "norm": float(np.sqrt((sigma**2).sum())),
                "singular_values": sigma.tolist(),
            }
        )
    return pd.DataFrame(rows)


@refuse_unknown
def gate_cosines(lens: LoadedModel) -> pd.DataFrame:
    """Compare the gate rows of the experts of each layer.

    Args:
        lens: The model.

    Returns:
        A row per sparse layer and pair: ``layer``, ``expert`` < ``other``, ``cosine`` of the angle
        between their rows of the gate, and ``same_group``, whether both are in one group.
    """
    size = lens.router.experts // lens.router.groups
    parts = []
    for layer, weight_ED in gates(lens):
        unit_ED = weight_ED / np.linalg.norm(weight_ED, axis=1, keepdims=True)
        first, second = np.triu_indices(len(unit_ED), 1)
        pairs = {
            "layer": layer,
            "expert": first,
            "other": second,
            "cosine": (unit_ED @ unit_ED.T)[first, second],
            "same_group": first // size == second // size,
        }
        parts.append(pd.DataFrame(pairs))
    return pd.concat(parts, ignore_index=True)


@refuse_unknown
def direction_parts(
    lens: LoadedModel, direction: ArrayLike, *, tolerance: float = TOLERANCE
) -> pd.DataFrame:
    """Divide a direction into the part that each router can see and the rest.

    Args:
        lens: The model.
        direction: A vector [D] in the space of the router's input, for example a difference of
            means of recorded inputs; of a direction in the residual stream, its product with the
            weight of the norm before the router. Only its direction counts.
        tolerance: As in `gate_spectrum`.

    Returns:
        A row per sparse layer: ``layer``; ``control``, the share of the squared length inside the
        gate's row space; ``content`` = 1 − control; ``chance``, the control share that a random
        direction has on average, rank / D; and ``logit_change``, ‖W d‖ / ‖d‖.

    Raises:
        ObservationError: The direction is not D finite numbers, or zero.
    """
    vector_D = np.asarray(direction, np.float64)
    width = lens.sizes.hidden_size
    if vector_D.shape != (width,) or not np.isfinite(vector_D).all() or not vector_D.any():
        raise ObservationError(
            f"the direction has the shape {vector_D.shape}; it must be {width} finite numbers, the "
            "hidden size of the model, and not all zero."
        )
    unit_D = vector_D / np.linalg.norm(vector_D)
    rows = []
    for layer, weight_ED in gates(lens):
        basis_RD = row_space(weight_ED, tolerance)
        control = float(((basis_RD @ unit_D) ** 2).sum())
        rows.append(
            {
                "layer": layer,
                "control": control,
                "content": 1 - control,
                "chance": len(basis_RD) / width,
                "logit_change": float(np.linalg.norm(weight_ED @ unit_D)),
            }
        )
    return pd.DataFrame(rows)


def row_space(weight_ED: NDArray[np.float64], tolerance: float = TOLERANCE) -> NDArray[np.float64]:
    """Orthonormal basis [R, D] of the row space of a gate.

    Args:
        weight_ED: The gate's weight.
        tolerance: As in `gate_spectrum`.
    """
    _, sigma, rows_RD = np.linalg.svd(weight_ED, full_matrices=False)
    return rows_RD[sigma > tolerance * sigma[0]]


def gates(lens: LoadedModel) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield each sparse layer with its gate's weight [E, D].

    Raises:
        ObservationError: Layers of the model are in other processes.
    """
    if parallel_of(lens.model).pp_size > 1:
        raise ObservationError(
            "the layers are divided over processes; load the model without pp_size to look at "
            "all gates."
        )
    for layer in lens.sizes.sparse_layers:
        yield layer, router_weight(lens.model, layer).numpy()
