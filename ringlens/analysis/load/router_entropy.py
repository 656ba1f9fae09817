"""How decided the router is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.layer_parts import rows_by_layers
from ringlens.analysis.selections.selection import Selection, read, traces_of
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_UNITS = 2**28
"""Parts of a nat in which entropies are summed; the square of 11 nats is still a bigint."""


@refuse_unknown
def router_entropy(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure the entropy of the router's scores over all experts, and of the weights it gives.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group and layer: ``tokens``; ``entropy``, the mean entropy of s / Σs over all
        experts, in nats (at most ln E), with its standard deviation over tokens ``deviation``; and
        ``weight_entropy``, the mean entropy of w / Σw over the chosen ones (at most ln k).

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected, or it was imported without scores.
    """
    selection = read(store, where, by).scanned()
    traces = traces_of(store, selection)
    frame = rows_by_layers(store, selection, _sql, engine)
    if frame.empty:
        raise StoreError(
            f"nothing selected by {selection.where!r:.200} has the router's scores; imported runs "
            "hold the choice only."
        )
    return described(frame, selection, traces, _sql(selection))


def _sql(selection: Selection) -> str:
    """SQL of the table.

    Entropies are summed as whole numbers of 1 / `_UNITS` nats: of floats, the last bits of a sum
    depend on the order, which threads and machines change.
    """
    chosen = chosen_tokens(selection, "weights", "entropy as router_entropy")
    keys = selection.listed("layer")
    return f"""
with entropies as (
    select {keys}, round(router_entropy * {_UNITS})::bigint as s,
           round(-list_sum(list_transform(weights, lambda w: w / list_sum(weights)
               * ln(greatest(w / list_sum(weights), 1e-30)))) * {_UNITS})::bigint as w
    from {chosen} where router_entropy is not null),
sums as (
    select {keys}, count(*) as tokens, sum(s) as s, sum(s * s) as squares, sum(w) as w
    from entropies group by all)
select {keys}, tokens, s / tokens / {_UNITS} as entropy,
       sqrt((squares * tokens - s * s) / tokens / tokens) / {_UNITS} as deviation,
       w / tokens / {_UNITS} as weight_entropy
from sums order by all"""
