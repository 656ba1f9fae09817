"""Criteria: what ranks the experts of a plan.

Shape letters: L sparse layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.load.expert_importance import expert_importance
from ringlens.config import known_only, refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.model.family import sizes_of
from ringlens.model.loading import locate, read_config
from ringlens.prune.plan import PruningPlan, kept_per_group
from ringlens.prune.same_model import check_same_model

if TYPE_CHECKING:
    from ringlens.model.sizes import Sizes
    from ringlens.store.read.selection import Source

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Criterion:
    """What ranks experts.

    Attributes:
        meaning: What it is, for help and messages.
        column: Column of `expert_importance` that ranks them; "" for a random rank.
        needs_outputs: Whether a store must have `expert_outputs`.
    """

    meaning: str
    column: str
    needs_outputs: bool = True


CRITERIA: Mapping[str, Criterion] = {
    "frequency": Criterion("times chosen", "n", needs_outputs=False),
    "weight": Criterion("sum of routing weights", "weight", needs_outputs=False),
    "reap": Criterion("mean of w·‖f‖ over the tokens that chose it (arXiv 2510.13999)", "reap"),
    "ean": Criterion("Σ‖f‖", "ean"),
    "easy-ep": Criterion("Σ w·‖f‖·(1 − cos) (arXiv 2504.06792)", "easy_ep"),
    "ablation": Criterion(
        "measured rise of the loss without it (`ringlens ablate`)", "ablation", needs_outputs=False
    ),
    "random": Criterion("a random rank, the floor of all others", "", needs_outputs=False),
}
"""Every criterion by its name."""


@refuse_unknown
def pruning_plan(
    model: str,
    store: Source,
    criterion: str,
    keep: str | float,
    *,
    where: str | None = None,
    seed: int = 0,
) -> PruningPlan:
    """Plan which experts of each layer stay.

    Of each group of each layer the best stay; of equal ones the first. Super experts stay in any
    case.

    Args:
        model: "ring-nano", a folder, or a hub id, of which only config.json is read.
        store: What the model did, with routing of all its sparse layers.
        criterion: A name of `CRITERIA`.
        keep: As in `kept_per_group`.
        where: The tokens that count, a predicate over `token_context`; None for all.
        seed: Seed of the random criterion.

    Raises:
        ConfigError: An unknown criterion, an impossible ``keep``, a wrong predicate, or more super
            experts in a group than it keeps.
        StoreError: The store is of another model, or lacks layers, or the outputs that the
            criterion needs.
    """
    known_only([criterion], CRITERIA, "criterion")
    kept_per_group(keep, sizes_of(read_config(locate(model))).router)  # before the store is read
    return plan_of(model, store, importance(model, store, where), criterion, keep, seed)


def importance(model: str, store: Source, where: str | None) -> pd.DataFrame:
    """Read the table of `expert_importance` that plans of a model are made of.

    Returns:
        The table; ``attrs["unknown"]`` names models that cannot be told to be this one.

    Raises:
        StoreError: The store is of another model, lacks layers, or cannot answer.
    """
    table = expert_importance(store, where)
    sizes = sizes_of(read_config(locate(model)))
    table.attrs["unknown"] = check_same_model(model, sizes, store, table)
    return table


def plan_of(
    model: str,
    store: Source,
    table: pd.DataFrame,
    criterion: str,
    keep: str | float,
    seed: int = 0,
) -> PruningPlan:
    """Plan as `pruning_plan`, from a table of `importance`."""
    known_only([criterion], CRITERIA, "criterion")
    sizes = sizes_of(read_config(locate(model)))
    per_group = kept_per_group(keep, sizes.router)
    kind = CRITERIA[criterion]
    if criterion == "ablation":
        table = with_ablations(store, table)
    if kind.needs_outputs and table[kind.column].isna().all():
        raise StoreError(
            f"criterion {criterion!r} needs what the experts gave, and no token selected has "
            f"expert_outputs. Record them with record=['routing', 'expert_outputs'] (--record), or "
            f"rank by 'frequency'."
        )
    score_LE = _scores(table, kind, whole("seed", seed, 0), sizes)
    protected = _protected(table)
    kept = {
        layer: _best(score_LE[row], (protected or {}).get(layer, ()), per_group, sizes, layer)
        for row, layer in enumerate(sizes.sparse_layers)
    }
    return PruningPlan(
        model=model,
        criterion=criterion,
        experts=sizes.router.experts,
        groups=sizes.router.groups,
        kept=kept,
        protected=protected,
        where=table.attrs["where"],
        tokens=table.attrs["tokens"],
        seed=seed if criterion == "random" else None,
        carried=_carried(table, kept),
        unknown=table.attrs["unknown"],
    )


def with_ablations(store: Source, table: pd.DataFrame) -> pd.DataFrame:
    """Add to a table of `expert_importance` the measured effect of each expert, ``ablation``.

    Raises:
        StoreError: Some experts were not ablated.
    """
    effect = store.sql(
        "select layer, unit as expert, avg(value) as ablation from probes "
        "where probe = 'ablation' and key = 'loss' group by all"
    ).df()
    merged = table.merge(effect, how="left", on=["layer", "expert"])
    merged.attrs = dict(table.attrs)
    missing = int(merged["ablation"].isna().sum())
    if missing:
        raise StoreError(
            f"{missing} of {len(merged)} experts have no measured effect; measure them with "
            "ringlens ablate, or rank by another criterion."
        )
    return merged


def _scores(table: pd.DataFrame, kind: Criterion, seed: int, sizes: Sizes) -> Scores:
    """What ranks the experts, [L, E]."""
    shape = (len(sizes.sparse_layers), sizes.router.experts)
    if not kind.column:
        return np.random.default_rng(seed).random(shape)
    ordered = table.sort_values(["layer", "expert"])[kind.column]
    return ordered.to_numpy(np.float64).reshape(shape)


def _protected(table: pd.DataFrame) -> dict[int, tuple[int, ...]] | None:
    """Super experts by layer; None where they cannot be told."""
    if table["super_expert"].isna().any():
        return None
    found = table[table["super_expert"].astype(bool)].sort_values(["layer", "expert"])
    return {
        int(layer): tuple(rows["expert"].astype(int).tolist())
        for layer, rows in found.groupby("layer")
    }


def _best(
    score_E: Scores, protected: tuple[int, ...], per_group: int, sizes: Sizes, layer: int
) -> tuple[int, ...]:
    """The experts of a layer that stay."""
    size = sizes.router.experts // sizes.router.groups
    ranked = score_E.copy()
    ranked[list(protected)] = np.inf
    kept: list[int] = []
    for group in range(sizes.router.groups):
        first = group * size
        inside = [expert for expert in protected if first <= expert < first + size]
        if len(inside) > per_group:
            raise ConfigError(
                f"layer {layer}, group {group}: super experts {inside} must stay, and the group "
                f"keeps {per_group}. Keep {len(inside) * sizes.router.groups} experts or more."
            )
        best = np.argsort(-ranked[first : first + size], kind="stable")[:per_group]
        kept += sorted((first + best).tolist())
    return tuple(kept)


def _carried(table: pd.DataFrame, kept: Mapping[int, tuple[int, ...]]) -> dict[int, float]:
    """Share of the choices that kept experts had, by layer."""
    n_LE = table.pivot(index="layer", columns="expert", values="n")
    return {
        layer: float(n_LE.loc[layer, list(ids)].sum() / n_LE.loc[layer].sum())
        for layer, ids in kept.items()
    }
