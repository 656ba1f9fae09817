"""Which words an expert serves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Shape
from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.grouped_choices import (
    by_layers,
    grouped_tokens,
    loads,
    on_layers,
)
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import Selection, extent_of, read, same
from ringlens.config import refuse_unknown, whole
from ringlens.store.maintain.engine import LOCAL, Engine

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
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure vocabulary specialisation: how often a token chooses an expert.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        layer: One layer, or None for all.
        expert: One expert, or None for all.
        least: Fewest occurrences of a token on a layer; rarer ones have no row.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group, layer, expert and token id, the largest shares first: ``text``, one text of
        the token; ``occurrences`` N_x; ``n`` = N_x,e; ``share`` = N_x,e / N_x; and ``lift``, the
        share divided by that of all tokens of the group.

    Raises:
        ConfigError: A predicate is wrong.
    """
    selection = read(store, where, by).scanned()
    extent, shape = extent_of(store, selection), Shape(*router_shape(store, selection))
    layer = None if layer is None else whole("layer", layer, 0)
    expert = None if expert is None else whole("expert", expert, 0)
    least = whole("least", least, 1)
    wanted = selection if layer is None else replace(selection, layers=(layer,))
    count = partial(_of_layers, selection=selection, shape=shape, expert=expert, least=least)
    found = by_layers(store, wanted, shape, count, extent.tokens, engine)
    frame = _table(store, selection, found)
    return described(frame, selection, extent.traces, _sql(wanted, expert, least))


class _Words(NamedTuple):
    """Words and the experts that they chose on one layer, ordered by group, expert and token.

    Attributes:
        layer: The layer.
        word_X: Places of the words among those of all groups.
        expert_X: Experts.
        times_X: How often the word occurs.
        n_X: How often it chose the expert.
        lift_X: Its share, divided by that of all tokens of the group.
    """

    layer: int
    word_X: NDArray[np.int64]
    expert_X: NDArray[np.int64]
    times_X: NDArray[np.int64]
    n_X: NDArray[np.int64]
    lift_X: NDArray[np.float64]


def _of_layers(
    store: Source,
    layers: tuple[int, ...],
    *,
    selection: Selection,
    shape: Shape,
    expert: int | None,
    least: int,
) -> list[_Words]:
    """Count the words of some layers."""
    grouped = grouped_tokens(store, selection, "token_id")
    token_N = grouped.table["token_id"].to_numpy().astype(np.int64)
    words_W, word_N = np.unique(grouped.group_N * 2**32 + token_N, return_inverse=True)
    group_W, W, G, E = words_W >> 32, len(words_W), len(grouped.groups), shape.experts
    found = []
    for each in on_layers(store, grouped, layers, shape):
        word_R, load_GE = word_N[each.at_R], loads(each.ids_kR, each.group_R, G, E)
        times_W = np.bincount(word_R, minlength=W)
        often_R = times_W[word_R] >= least
        ids_kR = each.ids_kR[:, often_R]
        place_kR = (each.group_R[often_R] * E + ids_kR) * W + word_R[often_R]
        place_X, n_X = np.unique(
            place_kR if expert is None else place_kR[ids_kR == expert], return_counts=True
        )
        expert_X, word_X = place_X // W % E, place_X % W
        even_W = np.bincount(each.group_R, minlength=G)[group_W]
        rate_X = load_GE[group_W[word_X], expert_X] / even_W[word_X]
        lift_X = n_X / times_W[word_X] / rate_X
        found.append(_Words(each.layer, word_X, expert_X, times_W[word_X], n_X, lift_X))
    return found


def _table(store: Source, selection: Selection, found: list[_Words]) -> pd.DataFrame:
    """All words, those with the largest shares first."""
    words = store.sql(f"{_words_sql(selection)} order by {selection.listed('token_id')}").df()
    sizes = [len(each.n_X) for each in found]
    layer_X = np.repeat(np.array([each.layer for each in found], np.uint16), sizes)
    none = np.zeros(0, np.int64)
    nothing = _Words(0, none, none, none, none, np.zeros(0))
    _, *columns = zip(nothing, *found, strict=True)
    word_X, expert_X, times_X, n_X, lift_X = (np.concatenate(parts) for parts in columns)
    share_X = n_X / times_X
    order = np.lexsort((-times_X, -share_X))
    frame = words[selection.keys()].iloc[word_X[order]].reset_index(drop=True)
    return frame.assign(
        layer=layer_X[order],
        expert=expert_X[order].astype(np.uint16),
        token_id=words["token_id"].to_numpy()[word_X[order]],
        text=words["text"].to_numpy()[word_X[order]],
        occurrences=times_X[order],
        n=n_X[order],
        share=share_X[order],
        lift=lift_X[order],
    )


def _words_sql(selection: Selection) -> str:
    """SQL of the words of each group, with one text of each."""
    return f"""select {selection.listed("token_id")}, min(text) as text
    from token_context where ({selection.where}
    ) group by {selection.listed("token_id")}"""


def _sql(selection: Selection, expert: int | None, least: int) -> str:
    """SQL of the table, for the layers of a selection."""
    keys, on = selection.listed("layer"), partial(same, selection.keys("layer"))
    return f"""
with words as ({_words_sql(selection)}),
rows as (
    select {keys}, token_id, expert_ids
    from {chosen_tokens(replace(selection, by=(*selection.by, "token_id")))}),
occurrences as (
    select {keys}, token_id, count(*) as occurrences from rows group by all),
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
join words on chosen.token_id = words.token_id and {selection.alike("chosen", "words")}
where occurrences >= {least} and {"true" if expert is None else f"chosen.expert = {expert}"}
order by share desc, occurrences desc, {selection.listed("layer", prefix="chosen.")},
         chosen.expert, chosen.token_id"""
