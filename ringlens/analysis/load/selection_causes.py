"""Why experts were chosen: for their affinity, their bias, or the limit to groups.

A choice has three causes. Affinity: the router's score of the expert. Bias flip: a chosen expert
that would not be chosen with a bias of zero. Group flip: an expert among the k best whose group
was rejected, so that another stands in its place.

Shape letters: R rows, k experts per token, F experts kept out, N routers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.selections.expert_counts import OWN_CHOICE, chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import Selection, read, same, traces_of
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.encode.columns import matrix, padded

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

QUANTILES = (0.05, 0.5, 0.95)
"""Quantiles of the margins."""

_ROWS = 200_000
"""Rows that are paired at a time."""


@refuse_unknown
def selection_causes(
    store: Source, where: str | None = None, by: str | Iterable[str] = ()
) -> pd.DataFrame:
    """Measure how often the bias and the group limit decide, and by how much choices are won.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.

    Returns:
        A row per group and layer: ``tokens``; ``bias_flips`` and ``group_flips``, the shares of
        choices that they decide; ``bias_tokens`` and ``group_tokens``, the shares of tokens with at
        least one; and ``margin_05``, ``margin_50``, ``margin_95`` and the same of ``group_margin``,
        quantiles in units of the selection score (inf where nothing could have displaced a choice).

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected, or it was imported and its causes are unknown.
    """
    selection = read(store, where, by).scanned()
    traces = traces_of(store, selection)
    chosen = chosen_tokens(
        selection, "expert_ids", "bias_flips", "group_flips", "margin", "group_margin"
    )
    quantiles = ", ".join(
        f"quantile_disc({name}, {q}) as {name}_{round(100 * q):02}"
        for name in ("margin", "group_margin")
        for q in QUANTILES
    )
    # Rows of imported runs know no cause; their nulls must not count as "no flip".
    query = f"""
select {selection.listed("layer")}, count(*) as tokens,
       sum(len(bias_flips)) / sum(len(expert_ids)) as bias_flips,
       sum(len(group_flips)) / sum(len(expert_ids)) as group_flips,
       avg((len(bias_flips) > 0)::int) as bias_tokens,
       avg((len(group_flips) > 0)::int) as group_tokens, {quantiles}
from {chosen} where margin is not null group by all order by all"""
    frame = store.sql(query).df()
    if frame.empty:
        raise StoreError(
            f"nothing selected by {selection.where!r:.200} knows why its experts were chosen; "
            "imported runs hold the choice only."
        )
    return described(frame, selection, traces, query)


@refuse_unknown
def group_displacements(
    store: Source, where: str | None = None, by: str | Iterable[str] = ()
) -> pd.DataFrame:
    """Count which experts the group limit kept out, and which ones stood in for them.

    The experts among the k best of all groups have the highest scores. So of the chosen ones, those
    with the lowest scores stand in, as many as were kept out; the best of these is paired with the
    first that was kept out, and so on. Where interventions changed the choice nothing is counted.

    Args:
        store: The store.
        where: As in `selection_causes`.
        by: As in `selection_causes`.

    Returns:
        A row per group, layer and pair that occurred, most frequent first: ``expert``, which was
        kept out, ``stand_in``, which was chosen, and ``n``, how often.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected.
    """
    selection = read(store, where, by).scanned()
    traces = traces_of(store, selection)
    return described(displacements(store, selection), selection, traces, None)


def displacements(store: Source, selection: Selection, which: str = "true") -> pd.DataFrame:
    """Count the same in some rows of `routing`, such as ``found.layer = 5``."""
    chosen = chosen_tokens(selection, "expert_ids", "affinities", "group_flips", "own_ids")
    keys, on = selection.listed("layer"), same(selection.keys("layer"), "flipped", "cells")
    # A router's biases are joined by their number: a list of them a row would be most of the bytes.
    flipped = f"""with biases as (
    select *, row_number() over (order by run_id, layer) - 1 as router from (
        select run_id, layer, list(coalesce(bias, 0) order by expert) as bias
        from experts group by all)),
flipped as (
    select found.*, router from {chosen} as found join traces using (trace_id)
    join biases on biases.run_id = traces.run_id and biases.layer = found.layer
    where len(group_flips) > 0 and {OWN_CHOICE} and {which}),
{selection.cells("flipped")}"""
    cells = store.sql(f"{flipped} select {keys}, cell from cells order by cell").df()
    biases = store.sql(f"{flipped} select bias from biases order by router").to_arrow_table()
    bias_NE = matrix(biases["bias"])
    rows = store.sql(
        f"{flipped} select cell, expert_ids, affinities, group_flips, router "
        f"from flipped join cells on {on}"
    )
    pairs = [
        _stand_ins(pa.Table.from_batches([batch]), bias_NE) for batch in rows.to_arrow_reader(_ROWS)
    ]
    nothing = pd.DataFrame(columns=["cell", "expert", "stand_in"], dtype=np.int64)
    found = (
        pd.concat([nothing, *pairs])
        .value_counts(["cell", "expert", "stand_in"])
        .rename("n")
        .reset_index()
    )
    frame = cells.merge(found, on="cell").sort_values(
        ["n", "cell", "expert", "stand_in"], ascending=[False, True, True, True], ignore_index=True
    )
    return frame.drop(columns="cell")


def _stand_ins(rows: pa.Table, bias_NE: NDArray[np.float32]) -> pd.DataFrame:
    """Pair the experts that were kept out with those that stand in for them."""
    ids_Rk = matrix(rows["expert_ids"])
    out_RF = padded(rows["group_flips"].cast(pa.list_(pa.int64())), -1)
    bias_Rk = bias_NE[rows["router"].to_numpy()[:, None], ids_Rk]
    score_Rk = matrix(rows["affinities"]).astype(np.float64) + bias_Rk
    lowest_Rk = np.take_along_axis(ids_Rk, np.argsort(score_Rk, axis=1, kind="stable"), axis=1)
    kept_RF = out_RF >= 0
    # The first that was kept out is paired with the best of the stand-ins.
    last_R1 = kept_RF.sum(axis=1, keepdims=True) - 1
    place_RF = np.where(kept_RF, last_R1 - np.arange(out_RF.shape[1]), 0)
    stand_in_RF = np.take_along_axis(lowest_Rk, place_RF, axis=1)
    cell_RF = np.broadcast_to(rows["cell"].to_numpy()[:, None], out_RF.shape)
    return pd.DataFrame(
        {"cell": cell_RF[kept_RF], "expert": out_RF[kept_RF], "stand_in": stand_in_RF[kept_RF]}
    )
