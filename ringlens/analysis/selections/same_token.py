"""Is it the word, or what is done with it: a contrast among equal tokens.

Two selections hold different words, and experts prefer words. Among tokens of one id that
preference cannot differ, so what is left is not the word (arXiv 2604.17182).

Shape letters: U traces, L layers, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ringlens.analysis.selections.paired_counts import Group, Terms
from ringlens.analysis.selections.selection import Selection
from ringlens.store.schema.views import quote

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

# Strata that one trace alone has say nothing about a difference between traces. What is kept may
# not depend on which selection a trace is in, or permuting traces would not be fair.
_STRATA = """
with tokens_of as (
    select trace_id, pos, token_id, 0 as side from token_context where {where} and ({a}
    ) union all
    select trace_id, pos, token_id, 1 as side from token_context where {where} and ({b}
    )),
choices as (
    select trace_id, token_id, side, expert_ids
    from (from routing where layer = {layer}) join tokens_of using (trace_id, pos)),
sizes as (
    select trace_id, token_id, side, count(*) as tokens from choices group by all),
strata as (
    select {stratum}, coalesce(sum(tokens) filter (side = 0), 0) as a,
           coalesce(sum(tokens) filter (side = 1), 0) as b
    from sizes group by all having {kept})
"""

_RESIDUALS = """,
chosen as (
    select trace_id, token_id, side, expert, count(*) as n
    from (select trace_id, token_id, side, unnest(expert_ids) as expert from choices)
    group by all),
rates as (
    select {stratum}, expert, sum(n) / any_value(a + b) as rate
    from chosen join strata using ({stratum}) group by all),
seen as (
    select trace_id, expert, sum(n) as n from chosen join strata using ({stratum})
    where {own} group by all),
expected as (
    select trace_id, expert, sum(tokens * rate) as n
    from (from sizes where {own}) join rates using ({stratum}) group by all)
select trace_id, expert, coalesce(seen.n, 0) - expected.n as residual
from expected left join seen using (trace_id, expert)
"""

_WEIGHTS = "select {unit} as trace_id, sum(a * b / (a + b)) as weight from strata group by all"


def terms(store: Source, first: Selection, second: Selection, group: Group) -> Terms:
    """Terms of equal tokens: a stratum per token id, within each trace where traces are paired."""
    residual_ULE = np.zeros(group.a_ULE.shape)
    weight_UL = np.zeros(group.a_UL.shape)
    values = {f"key{i}": _plain(value) for i, value in enumerate(group.key.values())}
    traces = pd.Index(group.trace_U)
    for index, layer in enumerate(group.layer_L):
        fields = _fields(first, second, group) | {"layer": int(layer)}
        residuals = store.sql((_STRATA + _RESIDUALS).format(**fields), values).df()
        own = traces.get_indexer(residuals["trace_id"])
        residual_ULE[own, index, residuals["expert"]] = residuals["residual"]
        weights = store.sql((_STRATA + _WEIGHTS).format(**fields), values).df()
        if group.paired:
            weight_UL[traces.get_indexer(weights["trace_id"]), index] = weights["weight"]
        else:
            weight_UL[:, index] = weights["weight"].sum() / len(group.trace_U)
    return Terms(residual_ULE, weight_UL)


def _fields(first: Selection, second: Selection, group: Group) -> dict[str, Any]:
    """Parts of the queries that depend on how the traces are compared."""
    keys = [f"{quote(name)} is not distinct from $key{i}" for i, name in enumerate(group.key)]
    return {
        "where": " and ".join(keys) or "true",
        "a": first.where,
        "b": second.where,
        "stratum": "trace_id, token_id" if group.paired else "token_id",
        "kept": "a > 0 and b > 0" if group.paired else "count(distinct trace_id) > 1",
        "own": "side = 0" if group.paired else "true",
        "unit": "trace_id" if group.paired else "null",
    }


def _plain(value: Any) -> Any:
    """A value of a grouping column as Python has it; pandas makes NaN of a null."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if pd.isna(plain) else plain
