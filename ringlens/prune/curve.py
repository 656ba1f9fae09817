"""Curves over how many experts stay, where they break off, and what concentration foretells.

Shape letter: E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.analysis.load.expert_importance import expert_importance
from ringlens.analysis.load.usage import gini
from ringlens.config import number, refuse_unknown
from ringlens.errors import ConfigError
from ringlens.prune.criteria import CRITERIA, importance, plan_of
from ringlens.prune.evaluation import OnPlan, evaluate

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.problem import Problem
    from ringlens.store.read.selection import Source

TOLERANCE = 0.05
"""Nats a token by which the loss may rise before the cliff."""


@refuse_unknown
def pruning_curve(
    lens: LoadedModel,
    store: Source,
    problems: Sequence[Problem],
    *,
    criteria: Iterable[str] = ("random", "frequency", "reap"),
    keep: Iterable[str | float] = (0.75, 0.5, 0.25),
    where: str | None = None,
    seed: int = 0,
    max_new_tokens: int = 512,
    batch_size: int = 16,
    on_plan: OnPlan | None = None,
) -> pd.DataFrame:
    """Evaluate criteria over shares of experts that stay.

    Args:
        lens: The full model.
        store: What ranks the experts; see `pruning_plan`.
        problems: What the models are evaluated on; other ones than in the store.
        criteria: Names of `CRITERIA`.
        keep: Shares, or numbers, of experts that stay.
        where: The tokens that rank the experts.
        seed: Seed of the random criterion.
        max_new_tokens: Most tokens of an answer.
        batch_size: Problems side by side.
        on_plan: Called when a model was evaluated.

    Returns:
        The rows of `evaluate`, the full model first, with ``gini``, the mean Gini of the
        criterion's scores over layers (0: all experts count alike; NaN for the full model), and
        ``carried``, the share of choices that the kept experts had.

    Raises:
        ConfigError: An unknown criterion, or an impossible ``keep``.
        StoreError: The store cannot answer.
        ObservationError: The model cannot be masked.
    """
    table = importance(lens.name, store, where)
    shares = list(keep)
    plans = [
        plan_of(lens.name, store, table, criterion, share, seed)
        for criterion in criteria
        for share in shares
    ]
    frame = evaluate(
        lens, plans, problems, max_new_tokens=max_new_tokens, batch_size=batch_size, on_plan=on_plan
    )
    uneven = _concentration(table)
    frame["gini"] = [uneven.get(name, np.nan) for name in frame["criterion"]]
    carried = [float(np.mean(list(plan.carried.values()))) for plan in plans]
    frame["carried"] = [1.0, *carried]
    return frame


def concentration(store: Source, where: str | None = None) -> dict[str, float]:
    """Compute the mean Gini of each criterion's scores over layers; 0 for random.

    Effects of ablations may be below 0, and have none.
    """
    return _concentration(expert_importance(store, where))


def _concentration(table: pd.DataFrame) -> dict[str, float]:
    found = {}
    for name, kind in CRITERIA.items():
        if not kind.column:
            found[name] = 0.0
        elif kind.column in table and not table[kind.column].isna().any():
            score_LE = table.pivot(index="layer", columns="expert", values=kind.column).to_numpy()
            found[name] = float(np.mean(gini(score_LE)))
    return found


@refuse_unknown
def cliffs(curve: pd.DataFrame, *, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """Find where each criterion's curve breaks off.

    Args:
        curve: A table of `pruning_curve`.
        tolerance: Nats a token by which the loss may rise.

    Returns:
        A row per criterion: ``gini`` of its scores; ``holds``, the smallest share of experts up to
        which the loss stays within the tolerance (1 if even the largest share of the curve does
        not); ``cliff_above`` and ``cliff_below``, the neighbouring shares between which the loss
        rises most for an expert dropped; ``rise``, by how much. The higher the Gini, the lower the
        share that a criterion can be expected to hold to.

    Raises:
        ConfigError: It is no such table, or a tolerance that is none.
    """
    limit = number("tolerance", tolerance, 0)
    if not {"criterion", "keep", "loss_increase", "gini"} <= set(curve.columns):
        raise ConfigError("this is no table of pruning_curve: it lacks columns of one.")
    full = curve[curve["criterion"] == "none"]
    rows = []
    for name, points in curve[curve["criterion"] != "none"].groupby("criterion", sort=False):
        line = pd.concat([full, points]).sort_values("keep", ascending=False, kind="stable")
        keep, rise = line["keep"].to_numpy(), line["loss_increase"].to_numpy()
        steps = np.diff(rise) / -np.diff(keep)
        at = int(np.argmax(steps))
        within = np.cumprod(rise <= limit).astype(bool)
        rows.append(
            {
                "criterion": name,
                "gini": float(points["gini"].iloc[0]),
                "holds": float(keep[within].min()),
                "cliff_above": float(keep[at]),
                "cliff_below": float(keep[at + 1]),
                "rise": float(rise[at + 1] - rise[at]),
            }
        )
    return pd.DataFrame(rows)
