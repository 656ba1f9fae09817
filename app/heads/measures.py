"""What is known of each attention head of a trace: a number per layer and head, as SQL."""

from __future__ import annotations

from dataclasses import dataclass

from ringlens.app.shared import queries
from ringlens.store import Store
from ringlens.store.schema.glossary import OF_COLUMNS

PROBE = "receivers"
"""Probe that scores heads by how unequally they look back at steps."""

KURTOSIS, BEYOND = "kurtosis", "beyond_recency"

_RECORDED = (
    ("entropy", "Entropy", "nats", "Mean entropy of the head's attention rows"),
    ("first_weight", "First token", "probability", "Mean weight on the first token (the sink)"),
    ("previous_weight", "Previous token", "probability", "Mean weight on the token before"),
    ("output_norm", "Output norm", "residual stream", "Mean L2 norm of the head's output"),
)
_SHARES = (
    ("recency", "Recency", "Share of its attention on steps that stays within a step", "recency"),
    (
        "prompt",
        "On the prompt",
        "Mean attention that the thought pays to the prompt",
        "attention on the prompt",
    ),
)


@dataclass(frozen=True)
class Measure:
    """A number per layer and head.

    Attributes:
        name: Its name in addresses.
        label: Its name on the page.
        unit: Its unit.
        about: One sentence.
        term: Its name in the glossary.
        sql: Query of ``layer``, ``head``, ``value``; with ``tested`` also ``by_chance`` and ``p``.
        signed: Whether zero is the middle of its scale.
        tested: Whether it is compared with chance.
    """

    name: str
    label: str
    unit: str
    about: str
    term: str
    sql: str
    signed: bool = False
    tested: bool = False


def measures(store: Store, trace_id: int) -> list[Measure]:
    """List what is known of the heads of a trace; scores of the probe first."""
    return [*_probed(store, trace_id), *_recorded(store, trace_id)]


def _probed(store: Store, trace_id: int) -> list[Measure]:
    # Of few steps none are as far apart as a gap: then its score is of no head.
    query = f"""
select distinct key from probes
where probe = '{PROBE}' and trace_id = $trace_id and isfinite(value)"""
    keys = {row["key"] for row in queries.rows(store, query, {"trace_id": trace_id})}
    gaps = sorted(int(key.partition(":")[2]) for key in keys if key.startswith(f"{KURTOSIS}:"))
    found = []
    for gap in sorted(gaps, key=lambda gap: gap != 4):  # the published gap first
        apart = f"steps at least {gap} apart"
        about = f"Excess kurtosis of the attention that steps receive, {apart}"
        sql = _score(trace_id, gap)
        name = f"{KURTOSIS}:{gap}"
        label = f"Receiver, gap {gap}"
        found.append(Measure(name, label, "", about, "receiver score", sql, True, True))
        about = f"The same over what distance alone would give, {apart}"
        name = f"{BEYOND}:{gap}"
        sql = _of_key(trace_id, name)
        label = f"Beyond recency, gap {gap}"
        found.append(Measure(name, label, "", about, "beyond recency", sql, True))
    found.sort(key=lambda each: not each.tested)
    shares = [each for each in _SHARES if each[0] in keys]
    return found + [
        Measure(name, label, "share", about, term, _of_key(trace_id, name))
        for name, label, about, term in shares
    ]


def _of_key(trace_id: int, key: str) -> str:
    # As published, the first layer is left out.
    return f"""select layer, unit as head, value
from probes
where probe = '{PROBE}' and trace_id = {trace_id} and key = '{key}' and layer > 0
order by layer, head"""


def _score(trace_id: int, gap: int) -> str:
    return f"""select layer, unit as head, value, list_avg(dealt) as by_chance,
       (1 + len(list_filter(dealt, lambda x: x >= value))) / (1 + len(dealt)) as p
from (select layer, unit, value, json::double[] as dealt from probes
      where probe = '{PROBE}' and trace_id = {trace_id} and key = '{KURTOSIS}:{gap}')
where layer > 0
order by layer, head"""


def _recorded(store: Store, trace_id: int) -> list[Measure]:
    """Means of what the run recorded of each token, from their sums where it has them."""
    if queries.recorded(store, "head_blocks", trace_id):
        table, n, end = "head_blocks", "n", "_mean"
    elif queries.recorded(store, "heads", trace_id):
        table, n, end = "heads", "1 as n", ""
    else:
        return []
    return [
        Measure(
            name,
            label,
            unit,
            f"{about}, over all tokens",
            OF_COLUMNS["heads", name],
            _mean(trace_id, table, n, name, end),
        )
        for name, label, unit, about in _RECORDED
    ]


def _mean(trace_id: int, table: str, n: str, name: str, end: str) -> str:
    column = name + end
    return f"""select layer, head, sum(n * x) / sum(n) as value
from (select layer, {n}, unnest(range(len({column}))) as head, unnest({column}) as x
      from {table} where trace_id = {trace_id})
group by all order by layer, head"""
