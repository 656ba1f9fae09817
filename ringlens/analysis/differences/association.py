"""What an expert's choice goes with: a phase, a role, a task, a word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.differences.contrast import contrast
from ringlens.analysis.differences.sql import association_sql
from ringlens.analysis.statistics.fdr import q_values
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.read.selection import check_where
from ringlens.store.schema.views import literal, quote
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

MOST = 40
"""Most values of a column that are each held against the rest."""


@refuse_unknown
def association(
    store: Source,
    event: str,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    within: str | None = None,
    draws: int = 0,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure how an expert goes with an event, against the other tokens of the selection.

    Args:
        store: The store.
        event: A predicate over `token_context`, such as ``text in (' Wait', ' But')``; or one of
            its columns, such as ``role``, each of whose values is an event.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        within: As in `contrast`: "token" compares equal token ids only.
        draws: Resamples of traces for the intervals of the difference; 0 for none.
        seed: Seed of permutations and resamples.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per event, group, layer and expert: those of `contrast` between tokens with the event
        (a) and without (b); ``lift`` = p(x, e) / (p(x) p(e)) and ``npmi`` = ln lift / -ln p(x, e)
        (RICE, arXiv 2505.14681; -1 never together, 0 independent, 1 always together), with p over
        the tokens of both. Lift and nPMI are of all tokens, whatever ``within`` compares.
        ``attrs["sql"]`` gives all columns but the interval, p and q.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: The event happens nowhere or everywhere, or in too few traces.
    """
    # Checked alone: it stands beside the event in what is compared.
    selected = "true" if where is None else check_where(store, where)
    events = _events(store, event, selected)
    frames, queries = [], {}
    for value, happens in events.items():
        frame = contrast(
            store,
            f"({selected}\n) and ({happens}\n)",
            f"({selected}\n) and not coalesce(({happens}\n), false)",
            by,
            within=within,
            draws=draws,
            seed=seed,
            engine=engine,
        )
        attrs = frame.attrs
        queries[literal(value) if isinstance(value, str) else str(value)] = attrs["sql"]
        frames.append(pd.concat([pd.Series(value, frame.index, name="event"), frame], axis=1))
    table = pd.concat(frames, ignore_index=True)
    table["lift"], table["npmi"] = _lift_and_npmi(table)
    table["q"] = q_values(table["p"].to_numpy())  # over all events
    table.attrs = attrs | {
        "sql": association_sql(queries),
        "event": event,
        "events": events,
        "where": selected,
    }
    return table


def _events(store: Source, event: str, where: str) -> dict[object, str]:
    """Predicates by what they stand for."""
    if event not in TOKEN_CONTEXT_COLUMNS:
        return {event: check_where(store, event)}
    query = f"select distinct {quote(event)} from token_context where ({where}\n) order by all"
    values = [row[0] for row in store.sql(query).fetchall() if row[0] is not None]
    if len(values) > MOST or len(values) < 2:
        raise StoreError(
            f"{event!r} has {len(values):,} values in the selection; 2 to {MOST} can be held "
            "against each other. Write a predicate in its place."
        )
    return {v: f"{quote(event)} = {literal(v) if isinstance(v, str) else v}" for v in values}


def _lift_and_npmi(table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tokens = (table["tokens_a"] + table["tokens_b"]).to_numpy(np.float64)
    n_a = (table["share_a"] * table["tokens_a"]).to_numpy()
    n = n_a + (table["share_b"] * table["tokens_b"]).to_numpy()
    together = n_a / tokens
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = together / (n / tokens * table["tokens_a"].to_numpy() / tokens)
        npmi = np.where(together > 0, np.log(lift) / -np.log(together), -1.0)
    return lift, np.where(n > 0, npmi, np.nan)  # an expert that was never chosen goes with nothing
