"""How evenly the experts of a layer are used.

Shape letters: G groups, L layers, U traces, E experts, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.load.usage import gini, max_violation
from ringlens.analysis.selections import expert_counts
from ringlens.analysis.selections.expert_counts import (
    ExpertCounts,
    Part,
    chosen_tokens,
    weights_of,
)
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import Selection, read, same
from ringlens.analysis.statistics.bootstrap import enough_traces, intervals
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@refuse_unknown
def expert_load(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    baseline: str | None = None,
    draws: int = 0,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure the load of each expert: the share of tokens that chose it.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        baseline: The tokens that the load is compared with; None for equal load of all experts,
            k / E.
        draws: Resamples of whole traces for the intervals; 0 for no intervals, 1,000 for good ones.
        seed: Seed of the resampling.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group, layer and expert: ``n`` times chosen; ``tokens`` of the group on that
        layer; ``share`` = n / tokens; ``weight``, the mean routing weight that a token gives it (0
        where it is not chosen; NaN for imported runs); the ``baseline`` share, and ``lift`` =
        share / baseline (arXiv 2409.02060; NaN where the baseline is 0). With ``draws`` also the
        95% interval of the share over traces, ``low`` and ``high``.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected, or runs with different routers; or an interval is asked
            for of one trace, which does not vary.
    """
    selection = read(store, where, by)
    counts = expert_counts.count(store, selection, engine)
    rng = np.random.default_rng(seed)
    frame = pd.concat([_loads(part) for part in counts.parts(selection.by)], ignore_index=True)
    weight_RE = weights_of(store, selection, counts, engine)
    sums = [weight_RE[rows].sum(axis=0) for _, rows in counts.groups(selection.by)]
    frame["weight"] = np.concatenate(sums) / frame["tokens"]
    if draws:
        ends = [_interval(part, rng, draws) for part in counts.parts(selection.by)]
        frame["low"], frame["high"] = np.concatenate(ends, axis=1)
    base = _baseline(store, baseline, selection, counts, engine)
    frame = frame.merge(base, how="left", on=[c for c in base.columns if c != "baseline"])
    frame["lift"] = frame["share"] / frame["baseline"].where(frame["baseline"] > 0)
    return described(frame, selection, counts.traces, _sql(selection), baseline=baseline)


@refuse_unknown
def layer_balance(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure how evenly each layer uses its experts.

    Args:
        store: The store.
        where: As in `expert_load`.
        by: As in `expert_load`.
        engine: As in `expert_load`.

    Returns:
        A row per group and layer: ``tokens``, ``max_violation`` = max n / mean n − 1 (MaxVio, arXiv
        2408.15664; 0 is even), ``gini`` of n (0 is even), ``entropy`` of n / Σn in nats, and
        ``never_chosen``, the ids of experts without a choice.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected, or runs with different routers.
    """
    selection = read(store, where, by)
    counts = expert_counts.count(store, selection, engine)
    rows = []
    for part in counts.parts(selection.by):
        n_E = part.n_UE.sum(axis=0)
        choice_E = n_E[n_E > 0] / n_E.sum()
        balance = {
            "tokens": int(part.tokens_U.sum()),
            "max_violation": max_violation(n_E[None])[0],
            "gini": gini(n_E[None])[0],
            "entropy": -float(choice_E @ np.log(choice_E)),
            "never_chosen": np.flatnonzero(n_E == 0).tolist(),
        }
        rows.append(part.key | balance)
    return described(pd.DataFrame(rows), selection, counts.traces, _sql(selection))


def _loads(part: Part) -> pd.DataFrame:
    """Load of the experts of one layer in one group."""
    n_E, tokens = part.n_UE.sum(axis=0), int(part.tokens_U.sum())
    found = {"expert": np.arange(len(n_E)), "n": n_E, "tokens": tokens}
    return pd.DataFrame(part.key | found | {"share": n_E / tokens})


def _interval(part: Part, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Ends of the intervals of the shares of one layer in one group, [2, E]."""

    def shares(times_BU: NDArray[np.float64], experts: slice) -> NDArray[np.float64]:
        return (times_BU @ part.n_UE[:, experts]) / (times_BU @ part.tokens_U)[:, None]

    U, E = part.n_UE.shape
    enough_traces(U, f"the load in {part.key}")
    return np.stack(intervals(shares, [U], E, rng, draws))


def _baseline(
    store: Source, where: str | None, selection: Selection, counts: ExpertCounts, engine: Engine
) -> pd.DataFrame:
    """Shares that a load is compared with, by expert, and by what else they are told apart by."""
    expert_E = np.arange(counts.experts)
    if where is None:
        even = counts.experts_per_token / counts.experts
        return pd.DataFrame({"expert": expert_E, "baseline": even})
    base = read(store, where)
    if not set(base.by) <= set(selection.by):
        raise ConfigError(
            f"baseline = {where!r:.200} pools phases that the load tells apart by its where; name "
            "the phase in it, for example `phase = 'answer'`."
        )
    found = expert_counts.count(store, base, engine)
    if found.experts != counts.experts:
        raise ConfigError(
            f"baseline = {where!r:.200} is about a router of {found.experts} experts, and the "
            f"load about one of {counts.experts}; choose runs of one model."
        )
    parts = [
        pd.DataFrame(
            part.key | {"expert": expert_E, "baseline": part.n_UE.sum(axis=0) / part.tokens_U.sum()}
        )
        for part in found.parts(base.by)
    ]
    return pd.concat(parts, ignore_index=True)


def _sql(selection: Selection) -> str:
    """SQL that counts the choices of each expert; experts that were never chosen have no row."""
    keys, chosen = selection.listed("layer"), chosen_tokens(selection)
    return f"""
with tokens as (
    select {keys}, count(*) as tokens from {chosen} group by all),
choices as (
    select {keys}, expert, count(*) as n
    from (select {keys}, unnest(expert_ids) as expert from {chosen}) group by all)
select {selection.listed("layer", prefix="choices.")}, expert, n, tokens, n / tokens as share
from choices join tokens on {same(selection.keys("layer"), "choices", "tokens")} order by all"""
