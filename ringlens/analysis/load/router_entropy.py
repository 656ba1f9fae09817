"""How decided the router is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import read, traces_of
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


@refuse_unknown
def router_entropy(
    store: Source, where: str | None = None, by: str | Iterable[str] = ()
) -> pd.DataFrame:
    """Measure the entropy of the router's scores over all experts, and of the weights it gives.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.

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
    chosen = chosen_tokens(selection, "weights", "entropy as router_entropy")
    query = f"""
select {selection.listed("layer")}, count(*) as tokens, avg(router_entropy) as entropy,
       stddev_pop(router_entropy) as deviation,
       avg(-list_sum(list_transform(weights, lambda w: w / list_sum(weights)
           * ln(greatest(w / list_sum(weights), 1e-30))))) as weight_entropy
from {chosen} where router_entropy is not null group by all order by all"""
    frame = store.sql(query).df()
    if frame.empty:
        raise StoreError(
            f"nothing selected by {selection.where!r:.200} has the router's scores; imported runs "
            "hold the choice only."
        )
    return described(frame, selection, traces, query)
