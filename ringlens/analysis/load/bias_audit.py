"""What the selection bias of the experts does.

Ring's routers choose by s + bias and weigh by s alone, and training moves the bias of each expert
until the loads are even (arXiv 2408.15664). So it decides some choices against the affinities.

Shape letters: R rows (a trace, layer and group), U traces, C cells (a group and a layer each), E
experts, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.load.unbiased_load import UnbiasedLoad, unbiased_load
from ringlens.analysis.load.usage import gini, max_violation
from ringlens.analysis.selections import expert_counts
from ringlens.analysis.selections.expert_counts import (
    OWN_CHOICE,
    ExpertCounts,
    chosen_tokens,
    flips_of,
    rows_by_group,
    values_of,
)
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.layer_parts import rows_by_layers
from ringlens.analysis.selections.selection import Selection, read, same
from ringlens.analysis.statistics.bootstrap import enough_traces, ratio_interval
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@refuse_unknown
def bias_audit(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    draws: int = 0,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure what the selection bias of each layer decides, and whether it evens the load.

    The baseline is the same router with a bias of zero. Whose place a choice of the bias took is
    told by router logits alone: where they were not recorded, and for a `Shuffled` store, columns
    about the load without the bias are NaN, and ``suppressed`` is None.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        draws: Resamples of whole traces for the interval of ``flips``; 0 for none.
        seed: Seed of the resampling.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group and layer: ``tokens``; ``bias_min``, ``bias_max`` and ``bias_deviation``
        (over experts), in units of the score; ``flips``, the share of choices that the bias
        decides, with its 95% interval over traces ``low`` and ``high`` if there are draws;
        ``max_violation`` and ``gini`` of the load (see `layer_balance`), and
        ``max_violation_unbiased`` and ``gini_unbiased``, the same with a bias of zero;
        ``only_by_bias``, ids of the experts of which the bias made every choice; ``suppressed``,
        those that are never chosen and would be without the bias; ``group_tokens``, the share of
        tokens of which the limit to groups keeps an expert out, and ``group_tokens_flipped``, the
        same among tokens with a bias flip; and ``flips_by_group``, the share of bias flips whose
        expert lies in a group that would be rejected without the bias. ``attrs["logits"]`` is the
        share of rows with logits.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected, runs with different routers or biases, or routers without a
            bias; interventions changed what routers chose; or an interval is asked for of one
            trace.
    """
    audit = _audit(store, read(store, where, by), engine)
    rng = np.random.default_rng(seed)
    rows = []
    for c, (key, index) in enumerate(audit.parts):
        layer = {"tokens": int(audit.tokens_C[c])} | _spread(audit.bias(key["layer"]))
        layer |= _flips(audit, index, key, rng, draws) | _load(audit, c, index)
        rows.append(key | layer)
    frame = pd.DataFrame(rows)
    names = ["group_tokens", "group_tokens_flipped"]
    frame[names] = _beside_groups(store, audit, engine)[names].to_numpy(np.float64)
    frame["flips_by_group"] = _known(
        audit, np.divide(audit.unbiased.by_group_C, np.maximum(audit.unbiased.flips_C, 1))
    )
    return described(
        frame,
        audit.selection,
        audit.counts.traces,
        _layer_sql(audit.selection),
        logits=audit.logits,
    )


@refuse_unknown
def expert_bias(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """List the selection bias of every expert, and what it does to its load.

    Args:
        store: The store.
        where: As in `bias_audit`.
        by: As in `bias_audit`.
        engine: As in `bias_audit`.

    Returns:
        A row per group, layer and expert: ``group`` of the expert; its ``bias``; ``n`` times chosen
        of ``tokens``; ``flips``, how many of these choices the bias made; ``unbiased``, how often
        it would be chosen with a bias of zero (NaN without router logits); and ``change`` = (n −
        unbiased) / tokens, the share of tokens that the bias brings or takes.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: As `bias_audit`.
    """
    audit = _audit(store, read(store, where, by), engine)
    known_C = audit.unbiased.rows_C == audit.tokens_C
    tables = []
    for c, (key, index) in enumerate(audit.parts):
        own = audit.experts[audit.experts["layer"] == key["layer"]].sort_values("expert")
        unbiased_E = np.where(known_C[c], audit.unbiased.n_CE[c], np.nan)
        n_E, tokens = audit.counts.n_RE[index].sum(axis=0), int(audit.tokens_C[c])
        found = {
            "expert": own["expert"].to_numpy(),
            "group": own["group"].to_numpy(),
            "bias": own["bias"].to_numpy(),
            "n": n_E,
            "tokens": tokens,
            "flips": audit.flips_RE[index].sum(axis=0),
            "unbiased": unbiased_E,
            "change": (n_E - unbiased_E) / tokens,
        }
        tables.append(pd.DataFrame(key | found))
    frame = pd.concat(tables, ignore_index=True)
    query = f"{_expert_sql(audit.selection)} select * from audited order by all"
    return described(frame, audit.selection, audit.counts.traces, query, logits=audit.logits)


@dataclass(frozen=True)
class _Audit:
    """What both tables are made of.

    Attributes:
        selection: The tokens.
        counts: Choices by trace, layer and group.
        flips_RE: How many of them the bias made.
        parts: Each group and layer, with its rows.
        tokens_C: Tokens of each.
        experts: Layer, expert, group and bias.
        unbiased: Choices without the bias.
    """

    selection: Selection
    counts: ExpertCounts
    flips_RE: NDArray[np.int64]
    parts: list[tuple[dict[str, Any], NDArray[np.int64]]]
    tokens_C: NDArray[np.int64]
    experts: pd.DataFrame
    unbiased: UnbiasedLoad

    @property
    def logits(self) -> float:
        """Share of rows with router logits."""
        return float(self.unbiased.rows_C.sum() / self.tokens_C.sum())

    def bias(self, layer: int) -> NDArray[np.float64]:
        """Biases of a layer, [E]."""
        own = self.experts[self.experts["layer"] == layer]
        return own.sort_values("expert")["bias"].to_numpy(np.float64)


def _audit(store: Source, selection: Selection, engine: Engine) -> _Audit:
    counts = expert_counts.count(store, selection, engine)
    experts, run = _experts(store, selection)
    parts = list(counts.groups(selection.by))
    tokens_R = counts.rows["tokens"].to_numpy(np.int64)
    return _Audit(
        selection,
        counts,
        flips_of(store, selection, counts, engine),
        parts,
        np.array([tokens_R[index].sum() for _, index in parts]),
        experts,
        unbiased_load(store, selection, run, [key for key, _ in parts], engine),
    )


def _experts(store: Source, selection: Selection) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Biases of the experts, and the run that they are of.

    Raises:
        StoreError: There are none, or those of the runs differ.
    """
    experts = store.sql(
        f"""select layer, expert, any_value("group") as "group", min(bias) as bias,
            max(bias) as most, count(bias) as known, count(*) as runs
        from experts where {selection.of_runs} group by layer, expert order by layer, expert"""
    ).df()
    if experts.empty or (experts["known"] < experts["runs"]).any():
        raise StoreError(
            "the routers of the selected tokens have no selection bias, or their runs were "
            "imported without it; there is nothing to audit."
        )
    if (experts["bias"] != experts["most"]).any():
        raise StoreError(
            "the selection holds runs whose experts have different biases; add `run_id = '…'` to "
            "where, and compare the tables."
        )
    runs = store.sql(
        f"select * from runs where {selection.of_runs} order by run_id"
    ).to_arrow_table()
    listed = runs.to_pylist()
    if any(run.get("interventions") for run in listed):
        _refuse_intervened(store, selection)
    return experts[["layer", "expert", "group", "bias"]], listed[0]


def _refuse_intervened(store: Source, selection: Selection) -> None:
    """Refuse choices that interventions made: the audit would put them down to the bias."""
    chosen = chosen_tokens(selection, "expert_ids", "own_ids")
    query = f"select count(*) filter (not {OWN_CHOICE}), count(*) from {chosen}"
    ((changed, rows),) = store.sql(query).fetchall()
    if changed:
        raise StoreError(
            f"interventions changed {changed:,} of {rows:,} choices selected by "
            f"{selection.where!r:.200}, and the bias did not; add `interventions is null` to where."
        )


def _spread(bias_E: NDArray[np.float64]) -> dict[str, float]:
    return {
        "bias_min": bias_E.min(),
        "bias_max": bias_E.max(),
        "bias_deviation": bias_E.std(),
    }


def _flips(
    audit: _Audit,
    index: NDArray[np.int64],
    key: dict[str, Any],
    rng: np.random.Generator,
    draws: int,
) -> dict[str, float]:
    """Share of choices that the bias made, in one layer and group."""
    flips_U, n_U = (each[index].sum(axis=1) for each in (audit.flips_RE, audit.counts.n_RE))
    found = {"flips": flips_U.sum() / n_U.sum()}
    if not draws:
        return found
    enough_traces(len(index), f"the share of flips in {key}")
    low, high = ratio_interval(flips_U, n_U, rng, draws)
    return found | {"low": low, "high": high}


def _load(audit: _Audit, c: int, index: NDArray[np.int64]) -> dict[str, Any]:
    """Balance of the load with and without the bias, and the experts that it makes or unmakes."""
    n_E, flips_E = (each[index].sum(axis=0) for each in (audit.counts.n_RE, audit.flips_RE))
    known = audit.unbiased.rows_C[c] == audit.tokens_C[c]
    without_E = audit.unbiased.n_CE[c]
    return {
        "max_violation": max_violation(n_E[None])[0],
        "max_violation_unbiased": max_violation(without_E[None])[0] if known else np.nan,
        "gini": gini(n_E[None])[0],
        "gini_unbiased": gini(without_E[None])[0] if known else np.nan,
        "only_by_bias": np.flatnonzero((n_E > 0) & (flips_E == n_E)).tolist(),
        "suppressed": np.flatnonzero((n_E == 0) & (without_E > 0)).tolist() if known else None,
    }


def _known(audit: _Audit, values_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of the groups and layers of which all rows have logits; else NaN."""
    return np.where(audit.unbiased.rows_C == audit.tokens_C, values_C, np.nan)


def _beside_groups(store: Source, audit: _Audit, engine: Engine) -> pd.DataFrame:
    """How often the limit to groups decides, of all tokens and of those with a bias flip."""
    names = audit.selection.keys("layer")
    found = rows_by_layers(store, audit.selection, _groups_sql, engine)
    row_of = rows_by_group(found, names)
    keys = (values_of(key[name] for name in names) for key, _ in audit.parts)
    return found.iloc[[int(row_of[key][0]) for key in keys]]


def _groups_sql(selection: Selection) -> str:
    chosen = chosen_tokens(selection, "bias_flips", "group_flips")
    return f"""select {selection.listed("layer")},
        avg((len(group_flips) > 0)::int) as group_tokens,
        avg((len(group_flips) > 0)::int) filter (len(bias_flips) > 0) as group_tokens_flipped
    from {chosen} group by all"""


def _expert_sql(selection: Selection) -> str:
    """SQL, a with-clause, of ``audited``: biases, choices and flips of every expert."""
    keys = selection.listed("layer")
    on = same(selection.keys("layer"), "cells", "{0}") + " and {0}.expert = biases.expert"
    chosen = chosen_tokens(selection, "expert_ids", "bias_flips", "group_flips")
    return f"""with chosen as (from {chosen}),
cells as (select {keys}, count(*) as tokens from chosen group by all),
biases as (
    select layer, expert, any_value("group") as "group", any_value(bias) as bias from experts
    where {selection.of_runs} group by all),
choices as (
    select {keys}, expert, count(*) as n
    from (select {keys}, unnest(expert_ids) as expert from chosen) group by all),
flipped as (
    select {keys}, expert, count(*) as flips
    from (select {keys}, unnest(bias_flips) as expert from chosen) group by all),
audited as (
    select {selection.listed("layer", prefix="cells.")}, biases.expert, "group", bias,
           coalesce(n, 0) as n, tokens, coalesce(flips, 0) as flips
    from cells join biases on biases.layer = cells.layer
    left join choices on {on.format("choices")} left join flipped on {on.format("flipped")})"""


def _layer_sql(selection: Selection) -> str:
    """SQL of the columns of a layer that need no logits."""
    keys = selection.listed("layer")
    return f"""{_expert_sql(selection)},
beside as (
    select {keys}, avg((len(group_flips) > 0)::int) as group_tokens,
           avg((len(group_flips) > 0)::int) filter (len(bias_flips) > 0) as group_tokens_flipped
    from chosen group by all)
select {selection.listed("layer", prefix="audited.")}, any_value(tokens) as tokens,
       min(bias) as bias_min, max(bias) as bias_max, stddev_pop(bias) as bias_deviation,
       sum(flips) / sum(n) as flips, max(n) / avg(n) - 1 as max_violation,
       coalesce(list(expert order by expert) filter (n > 0 and flips = n), []) as only_by_bias,
       any_value(group_tokens) as group_tokens,
       any_value(group_tokens_flipped) as group_tokens_flipped
from audited join beside on {same(selection.keys("layer"), "audited", "beside")}
group by {selection.listed("layer", prefix="audited.")} order by all"""
