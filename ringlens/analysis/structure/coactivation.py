"""Which experts are chosen together, and which follow each other from layer to layer.

Shape letters: C cells (a group and a layer each), R rows, k experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from ringlens.analysis.selections.expert_counts import chosen_tokens, router_shape
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import Selection, read, same, traces_of
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.store.encode.columns import matrix

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_ROWS = 200_000
"""Rows that are counted at a time."""

_MOST = 2**27
"""Most pairs of experts that are counted at once, over all groups and layers: 1 GiB."""

_TOGETHER = "select *, expert_ids as others from chosen"

_FOLLOWING = """
select a.*, b.expert_ids as others
from chosen as a join following using (layer)
join found as b on a.trace_id = b.trace_id and a.pos = b.pos and b.layer = following.next"""


@refuse_unknown
def coactivation(
    store: Source, where: str | None = None, by: str | Iterable[str] = ()
) -> pd.DataFrame:
    """Count pairs of experts that a token chose on the same layer.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.

    Returns:
        A row per group, layer and ordered pair that occurred: ``expert``, ``other``, ``n`` tokens
        that chose both, ``share`` = N_ij / N_i (arXiv 2409.02060), and ``lift`` = N_ij · N /
        (N_i · N_j), 1 if the two were independent.

    Raises:
        ConfigError: A predicate is wrong, or there are too many groups to count at once.
        StoreError: Nothing is selected, or runs with different routers.
    """
    selection = read(store, where, by)
    frame = _pairs(store, selection, _TOGETHER, "other")
    apart = frame[frame["expert"] != frame["other"]].reset_index(drop=True)
    apart.attrs = frame.attrs
    return apart


@refuse_unknown
def transitions(
    store: Source, where: str | None = None, by: str | Iterable[str] = ()
) -> pd.DataFrame:
    """Count pairs of an expert and one that the same token chose on the next sparse layer.

    Args:
        store: The store.
        where: As in `coactivation`.
        by: As in `coactivation`.

    Returns:
        A row per group, layer and pair that occurred: ``expert`` on ``layer``, ``next`` on the
        next one, ``n`` tokens that chose both (all k² pairs of a token count), ``share`` = N_ij /
        N_i and ``lift`` = N_ij · N / (N_i · N_j).

    Raises:
        ConfigError: A predicate is wrong, or there are too many groups to count at once.
        StoreError: Nothing is selected, or runs with different routers.
    """
    return _pairs(store, read(store, where, by), _FOLLOWING, "next")


def _pairs(store: Source, selection: Selection, rows: str, other: str) -> pd.DataFrame:
    """Count pairs of experts over all tokens of a selection, a batch at a time."""
    experts, _ = router_shape(store, selection)
    keys, query = selection.listed("layer"), _numbered(selection)
    cells = store.sql(f"{query} select {keys}, cell from cells order by cell").df()
    if len(cells) * experts**2 > _MOST:
        raise ConfigError(
            f"by = {selection.by} makes {len(cells):,} groups and layers of {experts}² pairs, more "
            "than are counted at once; group by less, or select less."
        )
    counts = _Counts(len(cells), experts)
    batches = store.sql(f"{query} select cell, expert_ids, others from ({rows})")
    for batch in batches.to_arrow_reader(_ROWS):
        counts.add(pa.Table.from_batches([batch]))
    frame = counts.frame(cells, other)
    sql = f"""{query}
select {keys}, expert, other as "{other}", count(*) as n from (
    select {keys}, expert, unnest(others) as other
    from (select {keys}, unnest(expert_ids) as expert, others from ({rows})))
group by all"""
    return described(frame, selection, traces_of(store, selection), sql)


def _numbered(selection: Selection) -> str:
    """SQL of the choices with the number of their cell."""
    return f"""with found as (from {chosen_tokens(selection)}),
following as (
    select layer, lead(layer) over (order by layer) as next
    from (select distinct layer from found)),
{selection.cells("found")},
chosen as (
    select found.*, cell from found join cells on {same(selection.keys("layer"), "found", "cells")})
"""


class _Counts:
    """How often pairs of experts and single ones were chosen, in each cell."""

    def __init__(self, cells: int, experts: int) -> None:
        self.n_CEE = np.zeros((cells, experts, experts), np.int64)
        self.first_CE = np.zeros((cells, experts), np.int64)
        self.second_CE = np.zeros((cells, experts), np.int64)
        self.tokens_C = np.zeros(cells, np.int64)

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a batch."""
        C, E, _ = self.n_CEE.shape
        cell_R = rows["cell"].to_numpy()
        first_Rk = matrix(rows["expert_ids"]).astype(np.int64)
        second_Rk = matrix(rows["others"]).astype(np.int64)
        place_Rk = cell_R[:, None] * E + first_Rk
        pair_Rkk = place_Rk[:, :, None] * E + second_Rk[:, None, :]
        self.n_CEE += np.bincount(pair_Rkk.ravel(), minlength=C * E * E).reshape(C, E, E)
        self.first_CE += np.bincount(place_Rk.ravel(), minlength=C * E).reshape(C, E)
        other_Rk = cell_R[:, None] * E + second_Rk
        self.second_CE += np.bincount(other_Rk.ravel(), minlength=C * E).reshape(C, E)
        self.tokens_C += np.bincount(cell_R, minlength=C)

    def frame(self, cells: pd.DataFrame, other: str) -> pd.DataFrame:
        """Make the table of the pairs that occurred."""
        C, i, j = self.n_CEE.nonzero()
        n = self.n_CEE[C, i, j]
        frame = cells.drop(columns="cell").iloc[C].reset_index(drop=True)
        frame["expert"], frame[other], frame["n"] = i, j, n
        frame["share"] = n / self.first_CE[C, i]
        frame["lift"] = frame["share"] * self.tokens_C[C] / self.second_CE[C, j]
        return frame
