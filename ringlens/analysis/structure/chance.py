"""How often pairs of experts would meet by chance.

A token's k experts are distinct, so they cannot be independent: with equal loads a pair meets
(k − 1)·E / (k·(E − 1)) times as often as N_i·N_j / N says. What is right is quasi-independence
(Goodman, JASA 63, 1968): a product in every pair of different experts, nothing on the diagonal, and
the sums that the data have.

Shape letters: E experts, G groups of experts, U traces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = 500
_CLOSE = 1e-6
"""Part of an expert's sum by which it may be off."""


def met_by_chance(n_UE: NDArray[np.int64], tokens_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Count pairs as if the experts of a token were independent within each trace.

    Traces differ in their experts; two that one trace prefers meet there without seeking each
    other.

    Args:
        n_UE: Times that each trace chose each expert.
        tokens_U: Tokens of each trace.

    Returns:
        Σ_u N_ui·N_uj / N_u, with zeros on the diagonal, [E, E].
    """
    chance_EE = (n_UE / np.maximum(tokens_U, 1)[:, None]).T @ n_UE.astype(np.float64)
    np.fill_diagonal(chance_EE, 0)
    return chance_EE


def fitted(
    chance_EE: NDArray[np.float64],
    sum_E: NDArray[np.float64],
    between_GG: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Scale pairs to the sums that the data have, by iterative proportional fitting.

    Args:
        chance_EE: Pairs by chance, symmetric, with zeros on the diagonal.
        sum_E: Pairs that each expert is in.
        between_GG: Pairs between any two groups of experts, which stand side by side; None where
            groups are not told apart.

    Returns:
        a_i·a_j·chance_ij, or with a factor of each two groups as well, [E, E].
    """
    factor_E = np.ones(len(sum_E))
    groups = 1 if between_GG is None else len(between_GG)
    group_E = np.arange(len(sum_E)) // (len(sum_E) // groups)
    factor_GG, own_EG = np.ones((groups, groups)), np.eye(groups)[group_E]
    for _ in range(_STEPS):
        # Pairs of each expert with each group; all pairs are only made at the end.
        pairs_EG = factor_E[:, None] * (chance_EE @ (own_EG * factor_E[:, None]))
        if between_GG is not None:
            factor_GG = _ratio(between_GG, own_EG.T @ pairs_EG)
        ratio_E = _ratio(sum_E, (factor_GG[group_E] * pairs_EG).sum(axis=1))
        factor_E = factor_E * np.sqrt(ratio_E)
        if np.abs(ratio_E - 1)[sum_E > 0].max(initial=0) < _CLOSE:
            break
    blocks = (groups, len(sum_E) // groups) * 2
    found_EE = (chance_EE.reshape(blocks) * factor_GG[:, None, :, None]).reshape(chance_EE.shape)
    found_EE *= factor_E[:, None]
    found_EE *= factor_E
    return found_EE


def _ratio(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(wanted, found, out=np.zeros_like(wanted, dtype=np.float64), where=found > 0)
