"""Writes the query behind the heatmap of experts, so that a reader can continue from it.

Shape letters: S sparse layers, E experts.
"""

from __future__ import annotations

from typing import Any

from ringlens.app.shared.scope import Scope

COLUMNS = {
    "share": "share_of_tokens",
    "weight": "weight_share",
    "lift": "log2_lift",
    "flips": "share_by_bias",
}
"""Name of each metric's column; for a difference with think_minus_answer_ in front."""

_FROM_ROLLUPS = """
  select phase, layer, unnest(range(len(n))) as expert, unnest(n) as n,
         unnest(coalesce(weight, list_transform(n, lambda each: null::float))) as weight,
         unnest(coalesce(bias_flips, list_transform(n, lambda each: null::uinteger)))
             as bias_flips
  from usage_traces where {where}"""
_TOKENS_FROM_ROLLUPS = "select phase, layer, sum(tokens) as tokens from usage_traces where {where}"
_FROM_ROUTING = """
  select phase, layer, expert, 1 as n, weight, bias_flip::int as bias_flips
  from router_choices join tokens using (trace_id, pos) where {where}"""
_TOKENS_FROM_ROUTING = (
    "select phase, layer, count(*) as tokens\n"
    "        from routing join tokens using (trace_id, pos) where {where}"
)
_QUERY = """
with cells as ({cells}),
known as (select coalesce(bool_and(weight is not null), true) as weights from cells),
routed as (  -- tokens of a phase: those of the layer that routed most
  select phase, max(tokens) as tokens
  from ({tokens} group by phase, layer) group by phase),
sums as (
  select layer, expert,
{sums}
  from (select layer, expert::bigint as expert from experts where run_id = {run_id})
  left join cells using (layer, expert) group by layer, expert)
select layer, expert,
       {value} as {name}
from sums order by layer, expert"""


def query(scope: Scope, metric: str, phase: str, run: dict[str, Any], from_rollups: bool) -> str:
    """Write SQL of the values [S * E] that the heatmap draws, by layer and expert; null is a gap.

    Args:
        scope: Run or trace.
        metric: Key of :data:`ringlens.analysis.load.usage.METRICS`.
        phase: 'all', a phase, or 'difference' (think minus answer).
        run: The run's row of ``runs``.
        from_rollups: Whether the usage tables sum up all of the scope.
    """
    phases = ("think", "answer") if phase == "difference" else (phase,)
    values = [_value(metric, each, run) for each in phases]
    name = COLUMNS[metric]
    return _QUERY.format(
        cells=(_FROM_ROLLUPS if from_rollups else _FROM_ROUTING).format(
            where=_where(scope, from_rollups)
        ),
        tokens=(_TOKENS_FROM_ROLLUPS if from_rollups else _TOKENS_FROM_ROUTING).format(
            where=_where(scope, from_rollups)
        ),
        sums=",\n".join(_sums(metric, each) for each in phases),
        run_id=_text(scope.run_id),
        value="\n       - ".join(values),
        name=f"think_minus_answer_{name}" if phase == "difference" else name,
    ).strip()


def _where(scope: Scope, from_rollups: bool) -> str:
    if scope.trace_id is not None:
        return f"trace_id = {scope.trace_id}"
    if from_rollups:
        return f"run_id = {_text(scope.run_id)}"
    return f"trace_id in (select trace_id from traces where run_id = {_text(scope.run_id)})"


def _sums(metric: str, phase: str) -> str:
    """Write the sums over a phase that a metric needs."""
    kept = "" if phase == "all" else f" filter (phase = '{phase}')"
    needed = {"weight": ("weight",), "flips": ("n", "bias_flips")}.get(metric, ("n",))
    lines = []
    for name in needed:
        total = f"coalesce(sum({name}){kept}, 0)"
        if name != "n":  # what is not known is null, not 0
            total = f"case when (select weights from known) then {total} end"
        lines.append(f"    {total} as {name}_{phase}")
    return ",\n".join(lines)


def _value(metric: str, phase: str, run: dict[str, Any]) -> str:
    kept = "" if phase == "all" else f" where phase = '{phase}'"
    tokens = f"(select sum(tokens) from routed{kept})"
    if metric == "weight":
        return f"weight_{phase} / nullif(sum(weight_{phase}) over (partition by layer), 0)"
    if metric == "flips":
        return f"bias_flips_{phase} / nullif(n_{phase}, 0)"
    share = f"n_{phase} / nullif({tokens}, 0)"
    if metric == "share":
        return share
    uniform = f"({run['experts_per_token']} / {run['experts']})"
    return f"case when n_{phase} > 0 then log2({share} / {uniform}) end"


def _text(value: str) -> str:
    """Quote a text for SQL."""
    return "'" + value.replace("'", "''") + "'"
