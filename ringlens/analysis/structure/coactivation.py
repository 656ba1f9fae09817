"""Which experts are chosen together, and which follow each other from layer to layer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Shape, layers_of
from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.grouped_choices import (
    OnLayer,
    by_layers,
    grouped_tokens,
    groups_of,
    loads,
    on_layers,
)
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import Selection, extent_of, read
from ringlens.analysis.selections.shuffled import refuse_shuffled
from ringlens.analysis.structure.pair_counts import (
    LayerPairs,
    following,
    refuse_many,
    table,
    together,
)
from ringlens.config import refuse_unknown
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

_TOGETHER = "select *, expert_ids as others from found"

_FOLLOWING = """
select a.*, b.expert_ids as others
from found as a join following using (layer)
join found as b on a.trace_id = b.trace_id and a.pos = b.pos and b.layer = following.next"""


@refuse_unknown
def coactivation(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Count pairs of experts that a token chose on the same layer.

    Args:
        store: The store. `Shuffled` keeps the experts of a token together, so it is no null of this
            table and refused; `committees` compares pairs with what chance has them be.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group, layer and ordered pair that occurred: ``expert``, ``other``, ``n`` tokens
        that chose both, ``share`` = N_ij / N_i (arXiv 2409.02060), and ``lift`` = N_ij · N /
        (N_i · N_j), 1 if the two were independent.

    Raises:
        ConfigError: A predicate is wrong, or there are too many pairs to count at once.
        StoreError: Nothing is selected, or runs with different routers.
    """
    refuse_shuffled(store, "coactivation")
    return _pairs(store, read(store, where, by).scanned(), _together, _TOGETHER, "other", engine)


@refuse_unknown
def transitions(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Count pairs of an expert and one that the same token chose on the next sparse layer.

    Args:
        store: The store.
        where: As in `coactivation`.
        by: As in `coactivation`.
        engine: As in `coactivation`.

    Returns:
        A row per group, layer and pair that occurred: ``expert`` on ``layer``, ``next`` on the
        next one, ``n`` tokens that chose both (all k² pairs of a token count), ``share`` = N_ij /
        N_i and ``lift`` = N_ij · N / (N_i · N_j).

    Raises:
        ConfigError: A predicate is wrong, or there are too many pairs to count at once.
        StoreError: Nothing is selected, or runs with different routers.
    """
    return _pairs(store, read(store, where, by).scanned(), _following, _FOLLOWING, "next", engine)


class _Count(Protocol):
    """Counts the pairs of some layers."""

    def __call__(
        self, store: Source, layers: tuple[int, ...], *, selection: Selection, shape: Shape
    ) -> list[LayerPairs]: ...


def _pairs(
    store: Source, selection: Selection, count: _Count, rows: str, other: str, engine: Engine
) -> pd.DataFrame:
    """Count pairs of experts over all tokens of a selection, some layers at a time."""
    shape, extent = Shape(*router_shape(store, selection)), extent_of(store, selection)
    count_layers = partial(count, selection=selection, shape=shape)
    found = by_layers(store, selection, shape, count_layers, extent.tokens, engine)
    frame = table(found, groups_of(store, selection), other, selection)
    keys = selection.listed("layer")
    sql = f"""with found as (from {chosen_tokens(selection)}),
following as (
    select layer, lead(layer) over (order by layer) as next
    from (select distinct layer from found))
select {keys}, expert, other as "{other}", count(*) as n from (
    select {keys}, expert, unnest(others) as other
    from (select {keys}, unnest(expert_ids) as expert, others from ({rows})))
where {"expert <> other" if other == "other" else "true"} group by all"""
    return described(frame, selection, extent.traces, sql)


def _together(
    store: Source, layers: tuple[int, ...], *, selection: Selection, shape: Shape
) -> list[LayerPairs]:
    """Count the pairs of a token's experts on some layers."""
    grouped = grouped_tokens(store, selection)
    G, E = len(grouped.groups), shape.experts
    refuse_many(G * E**2, selection)
    return [
        _occurred(each, each, together(each.ids_kR, each.group_R, G, E), each.group_R)
        for each in on_layers(store, grouped, layers, shape)
    ]


def _following(
    store: Source, layers: tuple[int, ...], *, selection: Selection, shape: Shape
) -> list[LayerPairs]:
    """Count the pairs of an expert on some layers and one on the next."""
    grouped = grouped_tokens(store, selection)
    G, E = len(grouped.groups), shape.experts
    refuse_many(G * E**2, selection)
    after = [layer for layer in layers_of(store, selection.where) if layer > layers[-1]][:1]
    found = []
    for each, then in pairwise(on_layers(store, grouped, (*layers, *after), shape)):
        first, second = _of_both(each, then)
        n_GEE = following(first.ids_kR, second.ids_kR, first.group_R, G, E)
        found.append(_occurred(first, second, n_GEE, first.group_R))
    return found


def _of_both(first: OnLayer, second: OnLayer) -> tuple[OnLayer, OnLayer]:
    """Choices of the tokens that have one on both layers."""
    if np.array_equal(first.at_R, second.at_R):
        return first, second
    at_R, one, other = np.intersect1d(
        first.at_R, second.at_R, assume_unique=True, return_indices=True
    )
    return (
        OnLayer(first.layer, first.ids_kR[:, one], at_R, first.group_R[one]),
        OnLayer(second.layer, second.ids_kR[:, other], at_R, second.group_R[other]),
    )


def _occurred(
    first: OnLayer, second: OnLayer, n_GEE: NDArray[np.int64], group_R: NDArray[np.int64]
) -> LayerPairs:
    """The pairs that occurred, and what their shares and lifts are made of."""
    G, E, _ = n_GEE.shape
    pair_X = np.flatnonzero(n_GEE).astype(np.int32)
    return LayerPairs(
        first.layer,
        pair_X,
        n_GEE.ravel()[pair_X].astype(np.int32),
        np.bincount(group_R, minlength=G),
        loads(first.ids_kR, group_R, G, E),
        loads(second.ids_kR, group_R, G, E),
    )
