"""Counts of chosen experts by trace, which most tables are made of.

Shape letters: R rows (one per trace, layer and group), U traces of a layer and group, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.scans.parts import Traces, by_traces, each
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import Selection, traces_of
from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.schema.views import quote

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


OWN_CHOICE = "(own_ids is null or list_sort(own_ids) = list_sort(expert_ids))"
"""SQL, over `routing`: interventions left the experts that the router had chosen. Only then do its
margins and group flips belong to the experts that ran."""

_FIRST = "of the first selection"
"""Column of the sums; no column of `token_context` is called so."""

Counted = tuple[pa.Table, NDArray[np.int64]]
"""Rows with their keys and tokens, and the counts of their experts [R, E]."""


@dataclass(frozen=True)
class ExpertCounts:
    """How often each expert was chosen, by trace, layer and group.

    Attributes:
        rows: One row per trace, layer and group: ``trace_id``, ``layer``, ``tokens`` and the
            grouping columns, ordered by these.
        n_RE: Times that each expert was chosen, int64.
        experts_per_token: Experts that a token is given, k.
    """

    rows: pd.DataFrame
    n_RE: NDArray[np.int64]
    experts_per_token: int

    @property
    def experts(self) -> int:
        """Number of experts of a layer."""
        return self.n_RE.shape[1]

    @property
    def traces(self) -> int:
        """Number of traces."""
        return int(self.rows["trace_id"].nunique())

    @property
    def tokens(self) -> int:
        """Number of tokens with a choice, on the layer that has the most."""
        return int(self.rows.groupby("layer")["tokens"].sum().max())

    def groups(self, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], NDArray[np.int64]]]:
        """Each group and layer, in order, with its rows."""
        keys = list(dict.fromkeys((*by, "layer")))
        for values, index in self.rows.groupby(keys, dropna=False, sort=True).indices.items():
            row = values if isinstance(values, tuple) else (values,)
            yield dict(zip(keys, row, strict=True)), index

    def parts(self, by: Sequence[str]) -> Iterator[Part]:
        """Counts of each group and layer, in order."""
        for key, index in self.groups(by):
            yield Part(key, self.rows["tokens"].to_numpy(np.int64)[index], self.n_RE[index])


@dataclass(frozen=True)
class Part:
    """Counts of one layer in one group.

    Attributes:
        key: Values of the grouping columns, and the layer.
        tokens_U: Tokens of each trace.
        n_UE: Times that each expert was chosen.
    """

    key: dict[str, Any]
    tokens_U: NDArray[np.int64]
    n_UE: NDArray[np.int64]


def count(store: Source, selection: Selection, engine: Engine = LOCAL) -> ExpertCounts:
    """Count the choices of a selection; the engine scans parts of it, if sums do not answer it.

    Raises:
        StoreError: No token is selected, none has routing, or its runs have routers of different
            shapes.
    """
    experts, k = router_shape(store, selection)
    if selection.sums:
        tables = [_from_sums(store, selection, experts)]
    else:
        scan = partial(_from_choices, selection=selection, experts=experts)
        tables = each(store, scan, by_traces(store, engine), engine)
    return _counts(store, selection, tables, k)


def count_apart(
    store: Source, first: Selection, second: Selection, engine: Engine = LOCAL
) -> tuple[ExpertCounts, ExpertCounts]:
    """Count the choices of two selections that share no token, as `count` does each.

    Sums that answer both are read once.

    Raises:
        StoreError: As those of `count`.
    """
    shapes = [router_shape(store, each) for each in (first, second)]
    if not first.sums or (first.sums, shapes[0]) != (second.sums, shapes[1]):
        return count(store, first, engine), count(store, second, engine)
    experts, k = shapes[0]
    either = replace(first, where=f"({first.where}\n) or ({second.where}\n)")
    query = f"""
        select coalesce(({first.where}\n), false) as {quote(_FIRST)},
               {first.listed("layer", "trace_id")}, tokens, n
        from {_sums(either)} as token_context"""
    table = store.sql(query).to_arrow_table()
    first_R = table[_FIRST].to_numpy()
    rows, n_RE = table.drop_columns([_FIRST, "n"]), _lists(table["n"], experts)

    def counts(selection: Selection, own_R: NDArray[np.bool_]) -> ExpertCounts:
        return _counts(store, selection, [(rows.filter(pa.array(own_R)), n_RE[own_R])], k)

    return counts(first, first_R), counts(second, ~first_R)


def _counts(store: Source, selection: Selection, tables: Sequence[Counted], k: int) -> ExpertCounts:
    """Join the counts of parts of a selection; refuse one without any."""
    rows = pa.concat_tables([table for table, _ in tables]).to_pandas()
    n_RE = np.concatenate([counts for _, counts in tables])
    if not len(rows):
        traces_of(store, selection)
        raise StoreError(
            f"no token with routing is selected by {selection.where!r:.200}; see "
            "`store.sql('select phase, count(*) from tokens group by phase')` for what there is."
        )
    return ExpertCounts(*_merged(rows, n_RE, selection.keys("layer", "trace_id")), k)


def weights_of(
    store: Source, selection: Selection, counts: ExpertCounts, engine: Engine = LOCAL
) -> NDArray[np.float64]:
    """Sum the routing weights of each expert, beside its counts.

    Returns:
        Sums [R, E], in units of runs.routed_scaling_factor; NaN in rows of imported runs, which
        know no weights.
    """
    if selection.sums:
        found = _kept_weights(store, selection)
    else:
        scan = partial(_weights, selection=selection)
        found = pa.concat_tables(each(store, scan, by_traces(store, engine), engine))
    weight_RE = np.zeros(counts.n_RE.shape)
    _place(weight_RE, counts.rows[selection.keys("layer", "trace_id")], found.to_pandas(), "weight")
    return weight_RE


def flips_of(
    store: Source, selection: Selection, counts: ExpertCounts, engine: Engine = LOCAL
) -> NDArray[np.int64]:
    """Count how often each expert was chosen only because of its bias, beside its counts, [R, E].

    Rows of imported runs, which know no causes, count as none.
    """
    keys, names = selection.keys("layer", "trace_id"), selection.listed("layer", "trace_id")
    flips_RE = np.zeros(counts.n_RE.shape, np.int64)
    if selection.sums:
        query = f"""
            select {names}, expert - 1 as expert, sum(bias_flips[expert])::bigint as n
            from (select *, unnest(range(1, len(n) + 1)) as expert from {_sums(selection)})
            where bias_flips[expert] > 0 group by all"""
        found = store.sql(query).to_arrow_table()
    else:
        scan = partial(_flips, selection=selection)
        found = pa.concat_tables(each(store, scan, by_traces(store, engine), engine))
    _place(flips_RE, counts.rows[keys], found.to_pandas(), "n")
    return flips_RE


def rows_by_group(
    rows: pd.DataFrame, by: Sequence[str]
) -> dict[tuple[Any, ...], NDArray[np.int64]]:
    """Find the rows of each group, in order, by its `values_of`."""
    if not by:
        return {(): np.arange(len(rows))}
    found = {}
    for key, index in rows.groupby(list(by), dropna=False, sort=True).indices.items():
        found[values_of(key if isinstance(key, tuple) else (key,))] = index
    return found


def values_of(key: Iterable[Any]) -> tuple[Any, ...]:
    """Values of a group, with None for a null: pandas' NaN does not equal that of another table."""
    return tuple(None if pd.isna(value) else value for value in key)


def _from_sums(store: Source, selection: Selection, experts: int) -> Counted:
    """Counts from the sums that are kept by trace, layer, phase and role."""
    names = selection.listed("layer", "trace_id")
    query = f"select {names}, tokens, n from {_sums(selection)}"
    table = store.sql(query).to_arrow_table()
    return table.drop_columns("n"), _lists(table["n"], experts)


def _kept_weights(store: Source, selection: Selection) -> pa.Table:
    """Weights from the sums that are kept; parts of a trace have rows of their own."""
    names = selection.listed("layer", "trace_id")
    query = f"""
        select {names}, expert - 1 as expert, sum(weight[expert]) as weight
        from (select *, unnest(range(1, len(n) + 1)) as expert from {_sums(selection)})
        group by all"""
    return store.sql(query).to_arrow_table()


def _weights(store: Source, traces: Traces, selection: Selection) -> pa.Table:
    """Weights from the choices of some traces; they are fp16, so in any order the sum is exact."""
    names = selection.listed("layer", "trace_id")
    query = f"""
        select {names}, expert_ids[rank] as expert, sum(weights[rank]) as weight
        from (select *, unnest(range(1, len(expert_ids) + 1)) as rank
              from {chosen_tokens(selection.part(traces), "expert_ids", "weights")})
        group by all"""
    return store.sql(query).to_arrow_table()


def _flips(store: Source, traces: Traces, selection: Selection) -> pa.Table:
    """Choices of some traces that the bias made."""
    names = selection.listed("layer", "trace_id")
    query = f"""
        select {names}, expert, count(*) as n from (
            select {names}, unnest(bias_flips) as expert
            from {chosen_tokens(selection.part(traces), "bias_flips")}) group by all"""
    return store.sql(query).to_arrow_table()


# Tokens of a trace without roles have none, and its sums are those by phase.
_KEPT = {
    "usage_traces": "select *, null::varchar as role from usage_traces",
    "usage_roles": """
        select trace_id, layer, phase, role, tokens, n, weight, bias_flips from usage_roles
        union all
        select trace_id, layer, phase, null, tokens, n, weight, bias_flips from usage_traces
        anti join usage_roles using (trace_id)""",
}


def _sums(selection: Selection) -> str:
    """SQL of the kept sums of a selection, in brackets: a row per trace, layer, phase and part."""
    return f"""(
        from (
            select usage.layer, usage.phase, usage.role, usage.tokens, usage.n, usage.weight,
                   usage.bias_flips, traces.trace_id, runs.run_id, model, mode,
                   array_to_string(interventions, ' ') as interventions, task, problem_id, correct,
                   finish_reason
            from ({_KEPT[selection.sums]}) as usage join traces using (trace_id)
            join runs on runs.run_id = traces.run_id) as token_context
        where ({selection.where}
        ))"""


def _from_choices(store: Source, traces: Traces, selection: Selection, experts: int) -> Counted:
    """Counts from the choices of some traces."""
    selected, keys = chosen_tokens(selection.part(traces)), selection.keys("layer", "trace_id")
    names = selection.listed("layer", "trace_id")
    tokens = store.sql(
        f"select {names}, count(*) as tokens from {selected} group by all"
    ).to_arrow_table()
    chosen = store.sql(
        f"select {names}, expert, count(*) as n from "
        f"(select {names}, unnest(expert_ids) as expert from {selected}) group by all"
    ).to_arrow_table()
    n_RE = np.zeros((len(tokens), experts), np.int64)
    _place(n_RE, tokens.select(keys).to_pandas(), chosen.to_pandas(), "n")
    return tokens, n_RE


def _place(array_RE: NDArray, rows: pd.DataFrame, found: pd.DataFrame, name: str) -> None:
    """Write a column of found experts into their rows and columns."""
    keys = list(rows.columns)
    row_of = rows.assign(row=np.arange(len(rows)))
    # A left join keeps the order; nulls of a grouping column equal each other in it.
    row = found[keys].merge(row_of, on=keys, how="left")["row"]
    array_RE[row, found["expert"]] = found[name]


def chosen_tokens(selection: Selection, *columns: str) -> str:
    """SQL of a selection's choices, in brackets: a row per token and layer.

    Args:
        selection: The tokens.
        *columns: Columns of `routing`, beside the grouping columns and the key; ``a as b`` renames.
    """
    reasons = "".join(f", routing.{name}" for name in columns or ("expert_ids",))
    routing, tokens = "routing", f"({selection.where}\n)"
    scanned = [each for each in (selection.of_traces, selection.of_layers) if each != "true"]
    if scanned:
        routing = f"(from routing where {' and '.join(scanned)}) as routing"
    if selection.traces is not None:
        tokens = f"{tokens} and {selection.of_traces}"
    return (
        f"(select {selection.listed('trace_id', 'pos', prefix='asked.')}, layer{reasons} "
        f"from {routing} join (select {selection.listed('trace_id', 'pos')} from token_context "
        f"where {tokens}) as asked using (trace_id, pos))"
    )


def _lists(column: pa.ChunkedArray, experts: int) -> NDArray[np.int64]:
    """Lists by expert id as rows, [R, E]."""
    lists = column.combine_chunks()
    lengths = lists.value_lengths()
    if len(lists) and (lengths.to_numpy() != experts).any():
        raise StoreError(f"sums of usage do not have {experts} experts: run `ringlens check`.")
    return lists.flatten().to_numpy().astype(np.int64).reshape(len(lists), experts)


def _merged(
    rows: pd.DataFrame, n_RE: NDArray[np.int64], keys: Sequence[str]
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Rows in the order of their keys; those of one key, which parts of a trace make, are added."""
    # A grouping that sorts leaves nulls among booleans where they come, which differs by the run.
    order_R = rows[keys].reset_index(drop=True).sort_values(list(keys), kind="stable").index
    rows, n_RE = rows.iloc[order_R], n_RE[order_R]
    grouped = rows.groupby(keys, dropna=False, sort=False)
    merged = grouped["tokens"].sum().reset_index()
    # A column of nulls only loses its type in a grouping, and would join no other then.
    merged = merged.astype({name: rows[name].dtype for name in keys})
    if len(merged) == len(rows):
        return merged, n_RE
    summed_RE = np.zeros((len(merged), n_RE.shape[1]), np.int64)
    np.add.at(summed_RE, grouped.ngroup().to_numpy(), n_RE)
    return merged, summed_RE
