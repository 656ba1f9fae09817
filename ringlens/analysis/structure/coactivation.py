"""Which experts are chosen together, and which follow each other from layer to layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from ringlens.analysis.selections.expert_counts import router_shape
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import Selection, read, traces_of
from ringlens.analysis.structure.pair_counts import ROWS, PairCounts, numbered, refuse_many
from ringlens.config import refuse_unknown

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

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
    selection = read(store, where, by).scanned()
    frame = _pairs(store, selection, _TOGETHER, "other")
    apart = frame[frame["expert"] != frame["other"]].reset_index(drop=True)
    apart.attrs = frame.attrs | {"sql": frame.attrs["sql"] + ' having expert <> "other"'}
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
    return _pairs(store, read(store, where, by).scanned(), _FOLLOWING, "next")


def _pairs(store: Source, selection: Selection, rows: str, other: str) -> pd.DataFrame:
    """Count pairs of experts over all tokens of a selection, a batch at a time."""
    experts, _ = router_shape(store, selection)
    keys, query = selection.listed("layer"), numbered(selection)
    cells = store.sql(f"{query} select {keys}, cell from cells order by cell").df()
    refuse_many(len(cells), experts, selection)
    counts = PairCounts(len(cells), experts)
    batches = store.sql(f"{query} select cell, expert_ids, others from ({rows})")
    for batch in batches.to_arrow_reader(ROWS):
        rows_found = pa.Table.from_batches([batch])
        counts.add(rows_found, rows_found["cell"].to_numpy())
    frame = counts.frame(cells, other)
    sql = f"""{query}
select {keys}, expert, other as "{other}", count(*) as n from (
    select {keys}, expert, unnest(others) as other
    from (select {keys}, unnest(expert_ids) as expert, others from ({rows})))
group by all"""
    return described(frame, selection, traces_of(store, selection), sql)
