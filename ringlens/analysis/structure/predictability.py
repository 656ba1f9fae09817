"""How much of a choice its surroundings explain.

A predictor knows one thing of a token and names the k experts that tokens of that kind chose most
often, in other traces. What it gets right beyond the predictor that knows nothing is explained.

Shape letters: L layers, N selected tokens, R tokens of a layer, k experts per token, E experts,
U traces, X layers × predictors, B draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Choices, Shape, Tokens, blocks, layers_of
from ringlens.analysis.scans.parts import each
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import extent_of, read
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.analysis.structure.held_out import HeldOut, Strata
from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

FOLDS = 5
"""Parts of the traces; each is predicted from the others."""

DECILES = 10

KNOWN = {
    "nothing": "0",
    "token": "token_id",
    "bigram": "coalesce(lag(token_id) over (partition by trace_id order by pos), -1)"
    " * 2**32::bigint + token_id",
    "position": f"floor(rel_pos * {DECILES})::bigint",
    "phase": "hash(phase)",
    "role": "hash(coalesce(role, ''))",
    "previous_layer": "0",  # what it is depends on the layer
}
"""What predictors know, as SQL over `token_context`: a number for each kind of token."""


@refuse_unknown
def predictability(
    store: Source,
    where: str | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Measure how well a token's surroundings predict its experts, in traces held out.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all. Bigrams are of neighbours
            in the selection.
        draws: Resamples of traces for the intervals.
        seed: Seed of the folds and resamples.
        engine: Counts blocks of layers, in this process or on a cluster.

    Returns:
        A row per layer and predictor: ``known``, one of `KNOWN` ("previous_layer" is the heaviest
        expert of the sparse layer before); ``overlap``, the mean of |A ∩ Â| / k over held-out
        tokens; ``unseen``, the share of tokens of a kind that the other traces lack, for which the
        most frequent experts are named; ``gain``, the overlap beyond that of "nothing", with its
        95% interval over traces ``low`` and ``high``.

    Raises:
        ConfigError: The predicate is wrong, or the engine cannot open the store.
        StoreError: Nothing is selected, in too few traces, or runs with different routers.
    """
    selection = read(
        store, where, "phase"
    ).scanned()  # phases are not told apart: a predictor knows them
    shape = Shape(*router_shape(store, selection))
    tokens, traces = extent_of(store, selection)
    enough_traces(traces, "the prediction of held-out traces")
    rng = np.random.default_rng(seed)
    fold_U = rng.permutation(np.arange(traces) % min(FOLDS, traces))
    count = partial(_of_layers, where=selection.where, fold_U=fold_U, shape=shape)
    parts = each(store, count, blocks(layers_of(store), tokens, shape, engine), engine)
    layers = [layer for part in parts for layer in part if layer.tokens_U.any()]
    if not layers:
        raise StoreError(f"no token with routing is selected by {selection.where!r:.200}.")
    return described(_table(layers, shape.k, rng, draws), selection, traces, None)


class _Layer(NamedTuple):
    """What predictors get right on a layer.

    Attributes:
        layer: The layer.
        tokens_U: Its tokens in each trace.
        right: Chosen experts that were predicted, of each trace [U], by predictor.
        unseen: Tokens of a kind that the other traces lack, by predictor.
    """

    layer: int
    tokens_U: NDArray[np.int64]
    right: Mapping[str, NDArray[np.number]]
    unseen: dict[str, int]


def _of_layers(
    store: Source, layers: tuple[int, ...], where: str, fold_U: NDArray[np.int64], shape: Shape
) -> list[_Layer]:
    """Count what predictors get right on some layers."""
    tokens, kinds = _read(store, where)
    before = [layer for layer in layers_of(store) if layer < layers[0]][-1:]
    choices = Choices.read(store, tokens, [*before, *layers], shape)
    fold_N = fold_U[tokens.trace_N]
    # Of a layer on which every token has a choice.
    strata = {name: Strata.of(kind_N, fold_N) for name, kind_N in kinds.items()}
    found = []
    for place, layer in enumerate(layers, len(before)):
        ids_kR, there_N = choices.of(place)
        if place:
            heaviest_N = choices.heaviest(place - 1, shape.experts)
            kinds = kinds | {"previous_layer": heaviest_N}
            strata = strata | {"previous_layer": Strata.of(heaviest_N, fold_N)}
        fold_R, trace_R = fold_N[there_N], tokens.trace_N[there_N]
        known = strata
        if not there_N.all():
            known = {name: Strata.of(kind_N[there_N], fold_R) for name, kind_N in kinds.items()}
        held_out = HeldOut(ids_kR, fold_R, shape.experts)
        counts = partial(np.bincount, minlength=len(tokens.traces))
        right = {name: counts(trace_R, held_out.right(known[name])) for name in KNOWN}
        unseen = {name: known[name].unseen for name in KNOWN}
        found.append(_Layer(layer, counts(trace_R), right, unseen))
    return found


def _read(store: Source, where: str) -> tuple[Tokens, dict[str, NDArray[np.int64]]]:
    """Selected tokens, and the kind of each [N] by what a predictor knows."""
    kinds = ", ".join(f"{sql} as {name}" for name, sql in KNOWN.items())
    table = store.sql(
        f"select trace_id, pos, {kinds} from token_context where ({where}\n) order by trace_id, pos"
    ).to_arrow_table()
    numbers = {n: np.unique(table[n].to_numpy(), return_inverse=True)[1] for n in KNOWN}
    return Tokens.of(table), numbers


def _table(layers: list[_Layer], k: int, rng: np.random.Generator, draws: int) -> pd.DataFrame:
    """A row per layer and predictor."""
    X = len(KNOWN)
    tokens_UX = np.repeat(np.stack([layer.tokens_U for layer in layers], axis=1), X, axis=1)
    right_UX = np.stack([layer.right[name] for layer in layers for name in KNOWN], axis=1) / k
    gain_UX = right_UX - np.repeat(right_UX[:, ::X], X, axis=1)  # "nothing" comes first

    def gain(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a resample may lack all traces of a layer
            return (times_BU @ gain_UX[:, part]) / (times_BU @ tokens_UX[:, part])

    low_X, high_X = intervals(gain, [len(gain_UX)], gain_UX.shape[1], rng, draws)
    tokens_X = tokens_UX.sum(axis=0)
    unseen_X = np.array([layer.unseen[name] for layer in layers for name in KNOWN])
    return pd.DataFrame(
        {
            "layer": np.repeat([layer.layer for layer in layers], X),
            "known": np.tile(list(KNOWN), len(layers)),
            "overlap": right_UX.sum(axis=0) / tokens_X,
            "unseen": unseen_X / tokens_X,
            "gain": gain_UX.sum(axis=0) / tokens_X,
            "low": low_X,
            "high": high_X,
        }
    )
