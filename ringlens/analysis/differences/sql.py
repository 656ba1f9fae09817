"""SQL of what two selections differ by; what is resampled or permuted, SQL cannot give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.selection import Selection, same


def difference_sql(first: Selection, second: Selection, within: str | None = None) -> str:
    """SQL of tokens, shares and risk differences; experts that were never chosen have no row.

    Strata with tokens of one selection alone add nothing to either sum, and need not be left out.
    """
    stratum = ["stratum", *(["token_id"] if within else [])]
    at = "case when paired then trace_id end as stratum" + (", token_id" if within else "")
    keys = first.keys("layer")
    listed = first.listed("layer")
    return f"""{_counts(first, second, within)},
strata as (
    select {listed}, {at}, sum(a) as a, sum(b) as b from flagged group by all),
hits as (
    select {first.listed("layer", prefix="chosen.")}, {at}, expert, sum(a) as a, sum(b) as b
    from chosen join {_groups(first)} group by all),
residuals as (
    select {first.listed("layer", prefix="hits.")}, expert, sum(hits.a) as n_a, sum(hits.b) as n_b,
           sum(hits.a - strata.a * (hits.a + hits.b) / (strata.a + strata.b)) as residual
    from hits join strata on {same([*keys, *stratum], "hits", "strata")} group by all),
totals as (
    select {listed}, sum(a) as tokens_a, sum(b) as tokens_b, sum(a * b / (a + b)) as weight
    from strata group by all)
select {first.listed("layer", prefix="residuals.")}, expert, tokens_a::bigint as tokens_a,
       tokens_b::bigint as tokens_b, n_a / tokens_a as share_a, n_b / tokens_b as share_b,
       residual / weight as difference
from residuals join totals on {same(keys, "residuals", "totals")}
qualify {_of_both(first, "totals.tokens_a", "totals.tokens_b")}"""


def association_sql(events: dict[str, str]) -> str:
    """SQL of an association's tokens, shares, differences, lift and nPMI.

    Args:
        events: SQL of the difference that each event makes, by the event as a literal.
    """
    parts = "\nunion all\n".join(
        f"select {event} as event, * from (\n{sql})" for event, sql in events.items()
    )
    return f"""select * exclude (n), share_a / (n / (tokens_a + tokens_b)) as lift,
       case when share_a > 0 then ln(lift) / -ln(share_a * tokens_a / (tokens_a + tokens_b))
            else -1 end as npmi
from (select *, share_a * tokens_a + share_b * tokens_b as n from (
{parts})) as of_events"""


def shift_sql(first: Selection, second: Selection) -> str:
    """SQL of the Jensen–Shannon divergence, in nats, of traces that are compared."""
    listed = first.listed("layer")
    window = f"over (partition by {listed})"
    return f"""{_counts(first, second, None)},
hits as (
    select {first.listed("layer", prefix="chosen.")}, expert, sum(a) as a, sum(b) as b
    from chosen join {_groups(first)}
    join (select distinct {first.listed("trace_id")}, in_both from flagged) as of_trace
        on {same(first.keys("trace_id"), "chosen", "of_trace")}
    where in_both or not paired group by all),
shares as (
    select {listed}, a / sum(a) {window} as p, b / sum(b) {window} as r, (p + r) / 2 as half
    from hits)
select {listed}, sum(case when p > 0 then p * ln(p / half) else 0 end) / 2
       + sum(case when r > 0 then r * ln(r / half) else 0 end) / 2 as divergence
from shares group by all having sum(p) > 0 and sum(r) > 0"""


def along_rows(trace_id: int, layers: Sequence[int] | None) -> str:
    """SQL of which rows of `routing` are of a trace, and of some of its layers."""
    listed = "" if layers is None else ", ".join(map(str, layers))
    of_layers = f" and layer in ({listed})" if listed else ""
    return f"trace_id = {trace_id}{of_layers}"


def along_sql(rows: str, window: int) -> str:
    """SQL of how far the windows of a trace diverge from the one before and from the first."""
    return f"""with chosen as (
    select layer, pos // {window} as place, expert, count(*) as n
    from (select layer, pos, unnest(expert_ids) as expert from routing
          where {rows}) group by all),
windows as (
    select place, lag(place) over (order by place) as previous,
           first_value(place) over (order by place) as first, tokens
    from (select pos // {window} as place, count(distinct pos) as tokens
          from routing where {rows} group by all)),
shares as (
    select layer, place, expert, n / sum(n) over (partition by layer, place) as share from chosen),
grid as (
    select distinct chosen.layer, windows.place, chosen.expert, previous, first, tokens
    from chosen cross join windows),
sides as (
    select grid.*, coalesce(own.share, 0) as p, coalesce(before.share, 0) as r,
           coalesce(earliest.share, 0) as s
    from grid left join shares as own using (layer, place, expert)
    left join shares as before on before.layer = grid.layer and before.expert = grid.expert
        and before.place = previous
    left join shares as earliest on earliest.layer = grid.layer
        and earliest.expert = grid.expert and earliest.place = first)
select layer, place * {window} as start, any_value(tokens) as tokens,
       case when any_value(previous) is not null then {_divergence("p", "r")} end as from_previous,
       case when any_value(previous) is not null then {_divergence("p", "s")} end as from_first
from sides group by layer, place order by layer, place"""


def _divergence(p: str, r: str) -> str:
    """SQL of the Jensen–Shannon divergence of two columns of shares."""
    return " + ".join(
        f"sum(case when {x} > 0 then {x} * ln({x} / (({p} + {r}) / 2)) else 0 end) / 2"
        for x in (p, r)
    )


def _counts(first: Selection, second: Selection, within: str | None) -> str:
    """SQL, up to a with-clause's last part, of both selections by trace."""
    further = ("token_id",) if within else ()
    names = first.listed("layer", "trace_id", *further)
    sides = "\n    union all\n    ".join(
        f"select {names}, {side} as side, expert_ids "
        f"from {chosen_tokens(replace(each, by=(*each.by, *further), sums=''))}"
        for side, each in enumerate((first, second))
    )
    sums = "count(*) filter (side = 0) as a, count(*) filter (side = 1) as b"
    of_trace = f"over (partition by {first.listed('trace_id')})"
    return f"""with rows as (
    {sides}),
counted as (select {names}, {sums} from rows group by all),
marked as (
    select *, sum(a) {of_trace} > 0 and sum(b) {of_trace} > 0 as in_both from counted),
flagged as (select *, bool_or(in_both) {_over(first)} as paired from marked),
chosen as (
    select {names}, expert, {sums}
    from (select {names}, side, unnest(expert_ids) as expert from rows) group by all)"""


def _groups(selection: Selection) -> str:
    """SQL that joins rows of `chosen` with whether their group is paired."""
    names = f"{selection.listed()}, " if selection.by else ""
    on = same(selection.by, "chosen", "of_group") or "true"
    return f"(select distinct {names}paired from flagged) as of_group on {on}"


def _of_both(selection: Selection, a: str, b: str) -> str:
    """SQL of whether a group has tokens of both selections."""
    names = selection.listed(prefix="totals.")
    over = f"over (partition by {names})" if selection.by else "over ()"
    return f"sum({a}) {over} > 0 and sum({b}) {over} > 0"


def _over(selection: Selection) -> str:
    return f"over (partition by {selection.listed()})" if selection.by else "over ()"
