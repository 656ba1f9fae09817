"""How concentrated a load is.

Shape letter: E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ringlens.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable


def smallest_set(score_E: ArrayLike, top_p: float) -> NDArray[np.int64]:
    """Choose the fewest experts whose scores reach a part of the whole (ESFT, arXiv 2407.01906).

    Args:
        score_E: Score of each expert, such as its share of choices; of equal ones the first counts.
        top_p: The part to reach.

    Returns:
        Ids of the experts, the largest score first.

    Raises:
        ConfigError: All scores together do not reach it.
    """
    scores = np.asarray(score_E, np.float64)
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(scores[order])
    if not len(reached) or reached[-1] < top_p:
        raise ConfigError(
            f"all scores sum to {scores.sum():.4g} and cannot reach top_p = {top_p}; choose less."
        )
    return order[: int(np.argmax(reached >= top_p)) + 1]


def expert_subset(load: pd.DataFrame, top_p: float, score: str = "share") -> pd.DataFrame:
    """Choose the fewest experts of each layer that carry a part of its load.

    Args:
        load: A table of `expert_load`.
        top_p: The part to carry, of the choices or of the weights of a layer.
        score: "share" or "weight".

    Returns:
        The rows of these experts, layer by layer, the largest first, with ``carried``, the part of
        the layer's load that they carry together with those before.

    Raises:
        ConfigError: There is no such score, or ``top_p`` is not from 0 to 1.
    """
    if score not in ("share", "weight") or not 0 < top_p <= 1:
        raise ConfigError(
            f"score = {score!r:.60} and top_p = {top_p!r:.60}; the score is 'share' or 'weight', "
            "and top_p above 0 and at most 1."
        )
    parts = []
    for _, rows in load.groupby(_groups(load), dropna=False, sort=False):
        part_E = rows[score].to_numpy() / rows[score].sum()
        # Rounding may leave the sum of all parts a hair below 1.
        chosen = smallest_set(part_E, min(top_p, part_E.sum()))
        parts.append(rows.iloc[chosen].assign(carried=np.cumsum(part_E[chosen])))
    return pd.concat(parts, ignore_index=True)


def herfindahl(n: ArrayLike) -> float:
    """Compute the Herfindahl index Σ p²: 1 / E if all are equal, 1 if one has all."""
    counts = np.asarray(n, np.float64)
    return float(((counts / counts.sum()) ** 2).sum())


def normalized_entropy(n: ArrayLike, kinds: int | None = None) -> float:
    """Compute entropy / ln(kinds): 0 if one has all, 1 if all are equal.

    Args:
        n: Counts.
        kinds: Number of kinds that there could be; None for the length of ``n``.
    """
    counts = np.asarray(n, np.float64)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum() / np.log(kinds or len(counts)))


def winners(winner: Sequence[Hashable]) -> dict[str, float]:
    """Describe which expert leads in each of several domains.

    Args:
        winner: The most used expert of each domain.

    Returns:
        ``distinct`` experts that lead somewhere, ``max_wins`` of one, and `herfindahl` and
        `normalized_entropy` of the wins, over as many kinds as there are domains.
    """
    wins = pd.Series(list(winner)).value_counts().to_numpy()
    return {
        "distinct": len(wins),
        "max_wins": int(wins.max()),
        "herfindahl": herfindahl(wins),
        "normalized_entropy": normalized_entropy(wins, len(winner)),
    }


def lost_choices(
    load: pd.DataFrame, experts_per_token: int, tolerance: float = 1e-3
) -> pd.DataFrame:
    """Find layers whose shares do not sum to the experts per token: choices of them were lost.

    Args:
        load: A table with ``layer`` and ``share``, by expert.
        experts_per_token: k.
        tolerance: Difference that rounding explains.

    Returns:
        A row per group and layer that does not sum to k: ``sum`` of shares, and ``lost``, k minus
        that.
    """
    sums = load.groupby(_groups(load), dropna=False)["share"].sum().rename("sum").reset_index()
    sums["lost"] = experts_per_token - sums["sum"]
    return sums[sums["lost"].abs() > tolerance].reset_index(drop=True)


def _groups(load: pd.DataFrame) -> list[str]:
    """Grouping columns of a load, and the layer."""
    return [*dict.fromkeys((*load.attrs.get("by", ()), "layer"))]
