"""Committees: groups of experts that are chosen together more often than chance has it.

Pairs of experts that meet beyond chance (`ringlens.analysis.structure.chance`) are the edges of a
graph for each layer, with the logarithm of their lift as weight; its communities are committees.
Co-activation is OLMoE's (arXiv 2409.02060), over all pairs; committees of experts that go together
whatever the domain are described in arXiv 2601.03425, by their share of the routing; here they are
found by their meeting.

Shape letters: C cells (a group and a layer each), H halves of the traces, R rows, U traces, E
experts, G groups of experts, K committees, X pairs of experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.scans.choices import Shape
from ringlens.analysis.selections import expert_counts
from ringlens.analysis.selections.expert_counts import ExpertCounts, chosen_tokens, values_of
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.grouped_choices import (
    GroupedTokens,
    OnLayer,
    by_layers,
    grouped_tokens,
    on_layers,
)
from ringlens.analysis.selections.router import router_groups
from ringlens.analysis.selections.selection import Selection, read
from ringlens.analysis.selections.shuffled import refuse_shuffled
from ringlens.analysis.statistics.bootstrap import enough_traces
from ringlens.analysis.statistics.side_by_side import side_by_side
from ringlens.analysis.structure.chance import fitted, met_by_chance
from ringlens.analysis.structure.communities import communities
from ringlens.analysis.structure.pair_counts import MOST, refuse_many, together
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

GROUP = "group"
"""``within`` that compares pairs with others of the same two groups of experts."""

LEAST = 3
"""Fewest members: two are a pair, which `coactivation` lists."""

BEYOND = 3.0
"""Standard deviations by which a pair is beyond chance in each half of the traces."""

_AT_ONCE = 4
"""Most layers that are counted and searched at a time."""

_MEDIAN = 0.4549
"""Median of the square of a standard normal variable."""

COLUMNS = (
    "members", "size", "groups", "n", "expected", "lift", "held_out", "share", "stability",
)  # fmt: skip


@refuse_unknown
def committees(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    within: str | None = None,
    least: int = LEAST,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Find groups of experts that tokens choose together beyond chance.

    Whole traces are divided into two halves at random. A pair is an edge if it meets more often
    than chance has it by `BEYOND` standard deviations in both halves; the unit of the deviation is
    what pairs differ by from half to half, so that tokens of a trace count as what they are.
    Communities of the graph are found by the Leiden method.

    Args:
        store: The store. `Shuffled` keeps the experts of a token together, so it is no null of this
            table and refused; the null is the ``expected`` count.
        where: The tokens, a predicate over `token_context`; None for all.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        within: "group" compares a pair with those of the same two groups of experts, so that what
            the limit to groups brings together is left out; None compares all pairs.
        least: Fewest members of a committee.
        seed: Seed of the halves and of the search.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group, layer and committee, the largest share first: ``members``, ids of its
        experts; ``size``, their number; ``groups``, the groups of experts they belong to; ``n``,
        how often two of them were chosen together; ``expected``, how often chance has it, from the
        loads in each trace; ``lift`` = n / expected; ``held_out``, the lift of the committee that
        one half of the traces gives, in the other half (mean of both; NaN where neither half gives
        one); ``share``, their part of all choices; and ``stability``, the Jaccard index with the
        most similar committee of one half alone (mean of both), which is called stable from 0.75
        and dissolved below 0.5 (Hennig, Comput. Stat. Data Anal. 52, 2007). No rows where no
        experts go together. ``attrs["sql"]`` counts the pairs.

    Raises:
        ConfigError: A predicate or a setting is wrong, a token chooses one expert only, or there
            are too many groups to count at once.
        StoreError: Nothing is selected, runs with different routers, or too few traces.
    """
    if within not in (None, GROUP):
        raise ConfigError(f"within = {within!r:.60}; it is {GROUP!r} or None.")
    least = whole("least", least, 2)
    refuse_shuffled(store, "committees")
    selection = read(store, where, by)
    counts = expert_counts.count(store, selection, engine)
    if counts.experts_per_token < 2:
        raise ConfigError("these routers choose one expert for a token, so that none go together.")
    of_router = router_groups(store, selection)
    halved = _Halved.of(counts, selection, np.random.default_rng(seed))
    search = _Search(of_router if within else 1, least, seed)
    shape = Shape(counts.experts, counts.experts_per_token)
    count = partial(_of_layers, selection=selection, halved=halved, shape=shape, search=search)
    layers = tuple(int(layer) for layer in np.unique(counts.rows["layer"]))
    scanned = replace(selection.scanned(), layers=layers)
    found = dict(by_layers(store, scanned, shape, count, counts.tokens, engine))
    rows = [halved.cells[c] | row for c in sorted(found) for row in found[c]]
    frame = pd.DataFrame(rows, columns=[*selection.keys("layer"), *COLUMNS])
    frame["groups"] = _spanned(frame["members"], counts.experts, of_router)
    return described(frame, selection, counts.traces, _sql(selection), within=within)


@dataclass(frozen=True)
class _Cell:
    """Pairs of one layer in one group.

    Attributes:
        n_HEE: How often pairs met, by half of the traces.
        chance_HEE: How often chance has it.
        n_E: Times that each expert was chosen.
    """

    n_HEE: NDArray[np.float64]
    chance_HEE: NDArray[np.float64]
    n_E: NDArray[np.int64]


@dataclass(frozen=True)
class _Halved:
    """Counts of each layer and group, and its traces in two halves.

    Attributes:
        cells: Keys of the groups and layers.
        traces: Ids of all traces, ascending, [U].
        half_CU: Half of each trace in each cell.
        own_C: Places of the traces of each cell.
        tokens_C: Their tokens.
        n_C: Times that they chose each expert.
    """

    cells: list[dict[str, Any]]
    traces: NDArray[np.int64]
    half_CU: NDArray[np.int8]
    own_C: list[NDArray[np.int64]]
    tokens_C: list[NDArray[np.int64]]
    n_C: list[NDArray[np.int64]]

    @classmethod
    def of(cls, counts: ExpertCounts, selection: Selection, rng: np.random.Generator) -> _Halved:
        """Divide the traces of every layer and group at random."""
        groups = list(counts.groups(selection.by))
        traces, trace_R = np.unique(counts.rows["trace_id"].to_numpy(), return_inverse=True)
        half_CU = np.zeros((len(groups), len(traces)), np.int8)
        for c, (key, index) in enumerate(groups):
            enough_traces(len(index), f"the committees in {key}: their stability")
            half_CU[c, trace_R[index]] = rng.permutation(len(index)) % 2
        tokens_R = counts.rows["tokens"].to_numpy(np.int64)
        return cls(
            [key for key, _ in groups],
            traces,
            half_CU,
            [trace_R[index] for _, index in groups],
            [tokens_R[index] for _, index in groups],
            [counts.n_RE[index] for _, index in groups],
        )

    def places(self, by: Sequence[str]) -> dict[tuple[Any, ...], int]:
        """Number of the cell of each group and layer."""
        return {
            (*values_of(key[name] for name in by), int(key["layer"])): c
            for c, key in enumerate(self.cells)
        }

    def half(self, c: int, half: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Counts of experts [U, E] and tokens [U] of one half of a cell's traces."""
        own = self.half_CU[c, self.own_C[c]] == half
        return self.n_C[c][own], self.tokens_C[c][own]


class _Search(NamedTuple):
    """How committees are searched.

    Attributes:
        groups: Groups of experts that are told apart.
        least: Fewest members.
        seed: Seed.
    """

    groups: int
    least: int
    seed: int


def _of_layers(
    store: Source,
    layers: tuple[int, ...],
    *,
    selection: Selection,
    halved: _Halved,
    shape: Shape,
    search: _Search,
) -> list[tuple[int, list[dict[str, Any]]]]:
    """Committees of some layers, by the number of their cell."""
    grouped = grouped_tokens(store, selection)
    pairs = 2 * len(grouped.groups) * shape.experts**2
    refuse_many(pairs, selection)
    counter = _Counter.of(grouped, selection, halved, shape)

    def searched(layer: OnLayer) -> list[tuple[int, list[dict[str, Any]]]]:
        return [(c, _committees(c, n_HEE, halved, search)) for c, n_HEE in counter.cells(layer)]

    choices = on_layers(store, grouped, layers, shape)
    at_once = min(_AT_ONCE, max(1, MOST // pairs))
    found: list[tuple[int, list[dict[str, Any]]]] = []
    with side_by_side(at_once) as pool:  # the search and numpy leave Python's lock
        while some := list(islice(choices, at_once)):
            found += chain.from_iterable(pool.map(searched, some))
    return found


@dataclass(frozen=True)
class _Counter:
    """Counts the pairs of a layer, by group and half of the traces.

    Attributes:
        halved: The traces in two halves.
        shape: Experts of a layer, and experts per token.
        keys: Values of each group.
        places: Number of the cell of each group and layer.
        u_N: Place of each token's trace.
    """

    halved: _Halved
    shape: Shape
    keys: list[tuple[Any, ...]]
    places: dict[tuple[Any, ...], int]
    u_N: NDArray[np.int64]

    @classmethod
    def of(
        cls, grouped: GroupedTokens, selection: Selection, halved: _Halved, shape: Shape
    ) -> _Counter:
        """Find the half of every token."""
        # Traces without routing are in no cell, and none of their tokens has a choice.
        place_U = np.searchsorted(halved.traces, grouped.tokens.traces)
        u_N = np.minimum(place_U, len(halved.traces) - 1)[grouped.tokens.trace_N]
        return cls(halved, shape, grouped.keys(), halved.places(selection.by), u_N)

    def cells(self, on: OnLayer) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Pairs of each half in the cells of a layer, [H, E, E], with the cell's number."""
        G, E = len(self.keys), self.shape.experts
        c_G = np.array([self.places.get((*key, on.layer), -1) for key in self.keys])
        half_R = self.halved.half_CU[c_G[on.group_R], self.u_N[on.at_R]]
        n_XEE = together(on.ids_kR, 2 * on.group_R + half_R, 2 * G, E)
        for c, n_HEE in zip(c_G, n_XEE.reshape(G, 2, E, E), strict=True):
            if c >= 0:
                _refuse_different(n_HEE, self.halved.tokens_C[c], self.shape.k)
                yield int(c), n_HEE.astype(np.float64)


def _refuse_different(n_HEE: NDArray[np.int64], tokens_U: NDArray[np.int64], k: int) -> None:
    """Refuse pairs that are not of the tokens that were counted."""
    if n_HEE.sum() != tokens_U.sum() * k * (k - 1):
        raise StoreError(
            "the pairs of experts are not those of the tokens that the store's sums count: run "
            "`ringlens check`."
        )


def _by_chance(
    n_UE: NDArray[np.int64], tokens_U: NDArray[np.int64], n_EE: NDArray[np.float64], groups: int
) -> NDArray[np.float64]:
    """How often chance has pairs of experts meet in some traces, [E, E]."""
    size = len(n_EE) // groups
    between_GG = n_EE.reshape(groups, size, groups, size).sum(axis=(1, 3))
    return fitted(
        met_by_chance(n_UE, tokens_U), n_EE.sum(axis=1), between_GG if groups > 1 else None
    )


def _committees(
    c: int, n_HEE: NDArray[np.float64], halved: _Halved, search: _Search
) -> list[dict[str, Any]]:
    """Committees of one layer in one group."""
    chance_HEE = np.stack([_by_chance(*halved.half(c, h), n_HEE[h], search.groups) for h in (0, 1)])
    cell = _Cell(n_HEE, chance_HEE, halved.n_C[c].sum(axis=0))
    E = len(cell.n_E)
    pair_X = _pairs_of(E)
    n_HX, chance_HX = (
        np.take(each.reshape(2, E * E), pair_X, axis=1) for each in (n_HEE, chance_HEE)
    )
    beyond_HX, noise = _beyond(n_HX, chance_HX)
    edge_HX = beyond_HX >= BEYOND * noise

    def found(
        n_X: NDArray[np.float64], chance_X: NDArray[np.float64], edge_X: NDArray[np.bool_]
    ) -> list[NDArray[np.int64]]:
        edges = np.flatnonzero(edge_X & (chance_X > 0))
        weight_X = np.log(n_X[edges] / chance_X[edges])
        i_X, j_X = np.divmod(pair_X[edges], E)
        weight_EE = np.zeros((E, E))
        weight_EE[i_X, j_X] = weight_EE[j_X, i_X] = weight_X
        return communities(weight_EE, search.seed, search.least)

    all_traces = found(n_HX.sum(axis=0), chance_HX.sum(axis=0), edge_HX[0] & edge_HX[1])
    if not all_traces:
        return []
    of_half = [found(*each) for each in zip(n_HX, chance_HX, edge_HX, strict=True)]
    return sorted(_rows(cell, all_traces, of_half), key=lambda row: -row["share"])


@cache
def _pairs_of(experts: int) -> NDArray[np.int64]:
    """Places of all pairs of experts in an [E, E] array, the smaller one first, [X]."""
    i, j = np.triu_indices(experts, 1)
    return i * experts + j


def _beyond(
    n_HX: NDArray[np.float64], chance_HX: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """By how much pairs exceed chance, in units of a Poisson count's deviation, and the noise.

    Square roots of counts have one deviation, 1/2, whatever the count (Bartlett 1936). What the
    roots of n / chance differ by from half to half is noise; the median is not moved by pairs that
    do go together in one half more than in the other.
    """
    root_HX, even_HX = np.sqrt(n_HX), np.sqrt(chance_HX)
    beyond_HX = 2 * (root_HX - even_HX)
    known_X = (chance_HX >= 1).all(axis=0)
    if not known_X.any():
        return beyond_HX, 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_HX = root_HX / even_HX
        variance_X = (1 / (4 * chance_HX)).sum(axis=0)
        square_X = (ratio_HX[0] - ratio_HX[1]) ** 2 / variance_X
    inflated = np.median(square_X[known_X]) / _MEDIAN
    return beyond_HX, float(np.sqrt(max(1.0, inflated)))


def _rows(
    cell: _Cell, found: list[NDArray[np.int64]], of_half: list[list[NDArray[np.int64]]]
) -> list[dict[str, Any]]:
    """What is said of the committees of all traces, beside those of each half."""
    E = len(cell.n_E)
    members_KE = _members(found, E)
    n_K, expected_K = (
        _meetings(each_HEE.sum(axis=0), members_KE) / 2
        for each_HEE in (cell.n_HEE, cell.chance_HEE)
    )
    jaccard_HK, lift_HK = np.zeros((2, len(found))), np.full((2, len(found)), np.nan)
    for half, committees in enumerate(of_half):
        if committees:
            half_KE, other = _members(committees, E), 1 - half
            jaccard_KK = _jaccard(members_KE, half_KE)
            nearest_K = jaccard_KK.argmax(axis=1)
            jaccard_HK[half] = jaccard_KK.max(axis=1)
            lift_K = _lift(cell.n_HEE[other], cell.chance_HEE[other], half_KE)
            lift_HK[half] = lift_K[nearest_K]
    near_HK = jaccard_HK > 0
    with np.errstate(invalid="ignore"):
        held_K = np.where(near_HK, lift_HK, 0).sum(axis=0) / near_HK.sum(axis=0)
    columns = {
        "members": [members.tolist() for members in found],
        "size": [len(members) for members in found],
        "n": n_K.astype(np.int64).tolist(),
        "expected": expected_K.tolist(),
        "lift": (n_K / expected_K).tolist(),
        "held_out": held_K.tolist(),
        "share": (members_KE @ cell.n_E / cell.n_E.sum()).tolist(),
        "stability": jaccard_HK.mean(axis=0).tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _members(committees: list[NDArray[np.int64]], experts: int) -> NDArray[np.float64]:
    """1 for the experts of each committee, [K, E]."""
    members_KE = np.zeros((len(committees), experts))
    for k, members in enumerate(committees):
        members_KE[k, members] = 1
    return members_KE


def _meetings(n_EE: NDArray[np.float64], members_KE: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often members of each committee meet, both orders counted, [K]."""
    return ((members_KE @ n_EE) * members_KE).sum(axis=1)


def _lift(
    n_EE: NDArray[np.float64], chance_EE: NDArray[np.float64], members_KE: NDArray[np.float64]
) -> NDArray[np.float64]:
    expected_K = _meetings(chance_EE, members_KE)
    unknown_K = np.full(len(members_KE), np.nan)
    return np.divide(_meetings(n_EE, members_KE), expected_K, unknown_K, where=expected_K > 0)


def _jaccard(a_KE: NDArray[np.float64], b_KE: NDArray[np.float64]) -> NDArray[np.float64]:
    both_KK = a_KE @ b_KE.T
    return both_KK / (a_KE.sum(axis=1)[:, None] + b_KE.sum(axis=1) - both_KK)


def _spanned(members: pd.Series, experts: int, groups: int) -> list[list[int]]:
    """Groups of experts that members belong to."""
    size = experts // groups
    return [sorted({member // size for member in each}) for each in members]


def _sql(selection: Selection) -> str:
    """SQL that counts the pairs of which committees are made."""
    keys = selection.listed("layer")
    return f"""with found as (from {chosen_tokens(selection)})
select {keys}, expert, other, count(*) as n from (
    select {keys}, expert, unnest(expert_ids) as other
    from (select {keys}, unnest(expert_ids) as expert, expert_ids from found))
where expert < other group by all"""
