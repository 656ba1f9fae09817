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

from ringlens.analysis.scans.parts import each
from ringlens.analysis.selections.expert_counts import OWN_CHOICE, chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.layer_parts import layer_parts, rows_by_layers
from ringlens.analysis.selections.selection import Selection, read, same, traces_of
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.encode.columns import matrix, padded
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

QUANTILES = (0.05, 0.5, 0.95)
"""Quantiles of the margins."""

_ROWS = 200_000
"""Rows that are paired at a time."""


@refuse_unknown
def selection_causes(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure how often the bias and the group limit decide, and by how much choices are won.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        engine: Scans the store, in this process or on a cluster.

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
    frame = rows_by_layers(store, selection, _causes_sql, engine)
    if frame.empty:
        raise StoreError(
            f"nothing selected by {selection.where!r:.200} knows why its experts were chosen; "
            "imported runs hold the choice only."
        )
    return described(frame, selection, traces, _causes_sql(selection))


@refuse_unknown
def group_displacements(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Count which experts the group limit kept out, and which ones stood in for them.

    The experts among the k best of all groups have the highest scores. So of the chosen ones, those
    with the lowest scores stand in, as many as were kept out; the best of these is paired with the
    first that was kept out, and so on. Where interventions changed the choice nothing is counted.

    Args:
        store: The store.
        where: As in `selection_causes`.
        by: As in `selection_causes`.
        engine: As in `selection_causes`.

    Returns:
        A row per group, layer and pair that occurred, most frequent first: ``expert``, which was
        kept out, ``stand_in``, which was chosen, and ``n``, how often.

    Raises:
        ConfigError: A predicate is wrong.
        StoreError: Nothing is selected.
    """
    selection = read(store, where, by).scanned()
    traces = traces_of(store, selection)
    frame = displacements(store, selection, engine)
    return described(frame, selection, traces, _displacements_sql(selection))


def displacements(store: Source, selection: Selection, engine: Engine = LOCAL) -> pd.DataFrame:
    """Count the same in the layers of a selection."""
    parts = layer_parts(store, selection, engine) or [selection]
    found = pd.concat(each(store, _displaced, parts, engine), ignore_index=True)
    order = ["n", *selection.keys("layer"), "expert", "stand_in"]
    return found.sort_values(
        order, ascending=[False, *[True] * (len(order) - 1)], ignore_index=True
    )


def _causes_sql(selection: Selection) -> str:
    chosen = chosen_tokens(
        selection, "expert_ids", "bias_flips", "group_flips", "margin", "group_margin"
    )
    names, keys = ("margin", "group_margin"), selection.listed("layer")
    quantiles = ", ".join(f"quantile_disc({name}, {list(QUANTILES)}) as {name}" for name in names)
    listed = ", ".join(
        f"{name}[{place}] as {name}_{round(100 * q):02}"
        for name in names
        for place, q in enumerate(QUANTILES, 1)
    )
    # Rows of imported runs know no cause; their nulls must not count as "no flip".
    return f"""
select * exclude (margin, group_margin), {listed} from (
    select {keys}, count(*) as tokens,
           sum(len(bias_flips)) / sum(len(expert_ids)) as bias_flips,
           sum(len(group_flips)) / sum(len(expert_ids)) as group_flips,
           avg((len(bias_flips) > 0)::int) as bias_tokens,
           avg((len(group_flips) > 0)::int) as group_tokens, {quantiles}
    from {chosen} where margin is not null group by all)
order by {keys}"""


def _displacements_sql(selection: Selection) -> str:
    """SQL of the pairs: the chosen experts by score, lowest first, stand in from the last on."""
    keys, chosen = selection.listed("layer"), ("expert_ids", "affinities", "group_flips", "own_ids")
    return f"""
with biases as (
    select run_id, layer, list(coalesce(bias, 0) order by expert) as bias
    from experts group by all),
flipped as (
    select {selection.listed("layer", prefix="found.")}, group_flips, list_transform(
        list_sort(list_transform(range(1, len(expert_ids) + 1), lambda rank: {{
            'score': affinities[rank]::double + bias[expert_ids[rank] + 1], 'rank': rank}})),
        lambda each: expert_ids[each.rank]) as lowest
    from {chosen_tokens(selection, *chosen)} as found join traces using (trace_id)
    join biases on biases.run_id = traces.run_id and biases.layer = found.layer
    where len(group_flips) > 0 and {OWN_CHOICE}),
pairs as (
    select {keys}, group_flips[place] as expert, lowest[len(group_flips) + 1 - place] as stand_in
    from (select *, unnest(range(1, len(group_flips) + 1)) as place from flipped))
select {keys}, expert, stand_in, count(*) as n from pairs group by all
order by n desc, {keys}, expert, stand_in"""


def _displaced(store: Source, selection: Selection) -> pd.DataFrame:
    """Count who stands in for whom in the layers of a selection."""
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
    where len(group_flips) > 0 and {OWN_CHOICE}),
{selection.cells("flipped")}"""
    cells = store.sql(f"{flipped} select {keys}, cell from cells order by cell").df()
    biases = store.sql(f"{flipped} select bias from biases order by router").to_arrow_table()
    bias_NE = matrix(biases["bias"])
    rows = store.sql(
        f"{flipped} select cell, expert_ids, affinities, group_flips, router "
        f"from flipped join cells on {on}"
    )
    found = [np.zeros((2, 0), np.int64)]
    for batch in rows.to_arrow_reader(_ROWS):
        pairs = _stand_ins(pa.Table.from_batches([batch]), bias_NE)
        found.append(np.stack(np.unique(pairs, return_counts=True)))
    pair_X, place_X = np.unique(np.concatenate(found, axis=1)[0], return_inverse=True)
    n_X = np.zeros(len(pair_X), np.int64)
    np.add.at(n_X, place_X, np.concatenate(found, axis=1)[1])
    E = bias_NE.shape[1]
    frame = cells.drop(columns="cell").iloc[pair_X // E**2].reset_index(drop=True)
    return frame.assign(expert=pair_X // E % E, stand_in=pair_X % E, n=n_X)


def _stand_ins(rows: pa.Table, bias_NE: NDArray[np.float32]) -> NDArray[np.int64]:
    """Pair the experts that were kept out with those that stand in for them.

    Returns:
        (cell · E + expert) · E + stand-in of each pair.
    """
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
    E = bias_NE.shape[1]
    pair_RF = (rows["cell"].to_numpy()[:, None] * E + out_RF) * E + stand_in_RF
    return pair_RF[kept_RF]
