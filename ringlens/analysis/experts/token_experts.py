"""Which words an expert serves."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import read, same, traces_of
from ringlens.config import refuse_unknown, whole

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

LEAST = 10
"""Fewest occurrences of a token that its share is computed of (arXiv 2409.02060)."""


@refuse_unknown
def token_experts(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    layer: int | None = None,
    expert: int | None = None,
    least: int = LEAST,
) -> pd.DataFrame:
    """Measure vocabulary specialisation: how often a token chooses an expert.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        layer: One layer, or None for all.
        expert: One expert, or None for all.
        least: Fewest occurrences of a token on a layer; rarer ones have no row.

    Returns:
        A row per group, layer, expert and token id, the largest shares first: ``text``, one text of
        the token; ``occurrences`` N_x; ``n`` = N_x,e; ``share`` = N_x,e / N_x; and ``lift``, the
        share divided by that of all tokens of the group.

    Raises:
        ConfigError: A predicate is wrong.
    """
    selection = read(store, where, by).scanned()
    keys, on = selection.listed("layer"), partial(same, selection.keys("layer"))
    of_layer = "true" if layer is None else f"layer = {whole('layer', layer, 0)}"
    of_expert = "true" if expert is None else f"chosen.expert = {whole('expert', expert, 0)}"
    query = f"""
with words as (select trace_id, pos, token_id, text from tokens),
rows as (
    select {keys}, token_id, text, expert_ids
    from {chosen_tokens(selection)} join words using (trace_id, pos) where {of_layer}),
occurrences as (
    select {keys}, token_id, any_value(text) as text, count(*) as occurrences
    from rows group by all),
totals as (select {keys}, sum(occurrences) as tokens from occurrences group by all),
chosen as (
    select {keys}, token_id, expert, count(*) as n
    from (select {keys}, token_id, unnest(expert_ids) as expert from rows) group by all),
loads as (select {keys}, expert, sum(n) as load from chosen group by all)
select {selection.listed("layer", prefix="chosen.")}, chosen.expert, chosen.token_id, text,
       occurrences, n, n / occurrences as share, n / occurrences / (load / tokens) as lift
from chosen
join occurrences on chosen.token_id = occurrences.token_id and {on("chosen", "occurrences")}
join totals on {on("chosen", "totals")}
join loads on chosen.expert = loads.expert and {on("chosen", "loads")}
where occurrences >= {whole("least", least, 1)} and {of_expert}
order by share desc, occurrences desc, chosen.layer, chosen.expert, chosen.token_id"""
    return described(store.sql(query).df(), selection, traces_of(store, selection), query)
