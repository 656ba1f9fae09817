"""The tokens that an expert weighs most in, with the text around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import read

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

AROUND = 12
"""Tokens on each side of a context."""

_READ = 16
"""Tokens that are read for each that is shown, as samples of one problem repeat its text."""


def heaviest_contexts(
    store: Source, layer: int, expert: int, where: str | None = None, most: int = 8
) -> pd.DataFrame:
    """Find the tokens whose routing weight of an expert is highest.

    Args:
        store: The store.
        layer: The layer.
        expert: The expert.
        where: The tokens, a predicate over `token_context`; None for all.
        most: Most rows.

    Returns:
        A row per token, the heaviest first: ``trace_id``, ``pos``, ``phase``, ``role`` of its step
        (None where there is none), ``weight`` in units of runs.routed_scaling_factor (NaN in
        imported runs, whose first tokens are taken), and the texts ``before`` it, of it (``text``)
        and ``after`` it, `AROUND` tokens on each side. Of tokens with the same text up to them only
        the heaviest is shown.
    """
    selection = read(store, where, ("phase", "role", "text"))
    query = f"""
with heaviest as (
    select trace_id, pos, phase, role, text,
           weights[list_position(expert_ids, {expert})] as weight
    from {chosen_tokens(selection, "expert_ids", "weights")}
    where layer = {layer} and list_contains(expert_ids, {expert})
    order by weight desc nulls last, trace_id, pos limit {_READ * most}),
seen as (
    select h.*,
           coalesce(string_agg(t.text, '' order by t.pos) filter (t.pos < h.pos), '') as before,
           coalesce(string_agg(t.text, '' order by t.pos) filter (t.pos > h.pos), '') as after
    from heaviest as h join tokens as t
        on t.trace_id = h.trace_id and t.pos between h.pos - {AROUND} and h.pos + {AROUND}
    group by all)
select trace_id, pos, phase, role, weight, before, text, after
from seen
qualify row_number() over (
    partition by before, text order by weight desc nulls last, trace_id, pos) = 1
order by weight desc nulls last, trace_id, pos limit {most}"""
    frame = store.sql(query).df()
    return described(frame, selection, int(frame["trace_id"].nunique()), query)
