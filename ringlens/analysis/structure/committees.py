"""Committees: groups of experts that are chosen together more often than chance has it.

Pairs of experts that meet beyond chance (`ringlens.analysis.structure.chance`) are the edges of a
graph for each layer, with the logarithm of their lift as weight; its communities are committees.
Co-activation is OLMoE's (arXiv 2409.02060), over all pairs; committees of experts that go together
whatever the domain are described in arXiv 2601.03425, by their share of the routing; here they are
found by their meeting.

Shape letters: C cells (a group and a layer each), H halves of the traces, R rows, U traces, E
experts, G groups of experts, X pairs of experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ringlens.analysis.selections import expert_counts
from ringlens.analysis.selections.expert_counts import ExpertCounts
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import Selection, read
from ringlens.analysis.selections.shuffled import Shuffled
from ringlens.analysis.statistics.bootstrap import enough_traces
from ringlens.analysis.structure.chance import fitted, met_by_chance
from ringlens.analysis.structure.communities import communities
from ringlens.analysis.structure.pair_counts import ROWS, numbered, refuse_many
from ringlens.config import refuse_unknown, whole
from ringlens.errors import ConfigError, StoreError
from ringlens.store.encode.columns import matrix

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

GROUP = "group"
"""``within`` that compares pairs with others of the same two groups of experts."""

LEAST = 3
"""Fewest members: two are a pair, which `coactivation` lists."""

BEYOND = 3.0
"""Standard deviations by which a pair is beyond chance in each half of the traces."""

_AT_ONCE = 4
"""Layers that are searched at a time."""

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
    _refuse_shuffled(store)
    selection = read(store, where, by)
    counts = expert_counts.count(store, selection)
    if counts.experts_per_token < 2:
        raise ConfigError("these routers choose one expert for a token, so that none go together.")
    groups = _groups_of(store, selection) if within else 1
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    cells = _cells(store, selection, counts, rng, groups)
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # the search and numpy leave Python's lock
        while some := list(islice(cells, _AT_ONCE)):
            searched = pool.map(partial(_committees, least=least, seed=seed), some)
            for cell, found in zip(some, searched, strict=True):
                rows += [cell.key | row for row in found]
    frame = pd.DataFrame(rows, columns=[*selection.keys("layer"), *COLUMNS])
    frame["groups"] = _spanned(frame["members"], counts.experts, _groups_of(store, selection))
    return described(frame, selection, counts.traces, _sql(selection), within=within)


@dataclass(frozen=True)
class _Cell:
    """Pairs of one layer in one group.

    Attributes:
        key: Values of the grouping columns, and the layer.
        n_HEE: How often pairs met, by half of the traces.
        chance_HEE: How often chance has it.
        n_E: Times that each expert was chosen.
    """

    key: dict[str, Any]
    n_HEE: NDArray[np.float64]
    chance_HEE: NDArray[np.float64]
    n_E: NDArray[np.int64]


def _cells(
    store: Source,
    selection: Selection,
    counts: ExpertCounts,
    rng: np.random.Generator,
    groups: int,
) -> Iterator[_Cell]:
    """Count the pairs of every layer and group, in halves, and what chance has them be."""
    parts = list(counts.groups(selection.by))
    trace_R = counts.rows["trace_id"].to_numpy()
    traces, trace_R = np.unique(trace_R, return_inverse=True)
    half_CU = np.zeros((len(parts), len(traces)), np.int64)
    for c, (key, index) in enumerate(parts):
        enough_traces(len(index), f"the committees in {key}: their stability")
        half_CU[c, trace_R[index]] = rng.permutation(len(index)) % 2
    tokens_R = counts.rows["tokens"].to_numpy(np.int64)
    n_CHEE = _pairs(store, selection, traces, half_CU, counts.experts)
    _refuse_different(n_CHEE, [tokens_R[index].sum() for _, index in parts], counts)
    for c, (key, index) in enumerate(parts):
        half_U = half_CU[c, trace_R[index]]
        chance_HEE = np.stack(
            [
                _by_chance(counts.n_RE[own], tokens_R[own], n_CHEE[c, half], groups)
                for half in (0, 1)
                for own in [index[half_U == half]]
            ]
        )
        n_E = counts.n_RE[index].sum(axis=0)
        yield _Cell(key, n_CHEE[c].astype(np.float64), chance_HEE, n_E)


def _pairs(
    store: Source,
    selection: Selection,
    traces: NDArray[np.int64],
    half_CU: NDArray[np.int64],
    experts: int,
) -> NDArray[np.int64]:
    """How often pairs met, by cell and half, [C, H, E, E]; zeros on the diagonal."""
    C, E = len(half_CU), experts
    refuse_many(2 * C, E, selection)
    n_X = np.zeros(2 * C * E * E, np.int64)
    rows = store.sql(f"{numbered(selection)} select trace_id, cell, expert_ids from chosen")
    for batch in rows.to_arrow_reader(ROWS):
        table = pa.Table.from_batches([batch])
        cell_R, ids_Rk = table["cell"].to_numpy(), matrix(table["expert_ids"]).astype(np.int64)
        trace_R = np.searchsorted(traces, table["trace_id"].to_numpy())
        place_R = (2 * cell_R + half_CU[cell_R, trace_R]) * E
        one, other = np.triu_indices(ids_Rk.shape[1], 1)
        pair_RX = (place_R[:, None] + ids_Rk[:, one]) * E + ids_Rk[:, other]
        n_X += np.bincount(pair_RX.ravel(), minlength=len(n_X))
    n_CHEE = n_X.reshape(C, 2, E, E)
    for n_HEE in n_CHEE:  # each pair stands in one order, by the ranks of its experts
        n_HEE += n_HEE.transpose(0, 2, 1).copy()
    return n_CHEE


def _refuse_different(
    n_CHEE: NDArray[np.int64], tokens_C: Sequence[int], counts: ExpertCounts
) -> None:
    """Refuse pairs that are not of the tokens that were counted."""
    k = counts.experts_per_token
    if (n_CHEE.sum(axis=(1, 2, 3)) != np.array(tokens_C) * k * (k - 1)).any():
        raise StoreError(
            "the pairs of experts are not those of the tokens that the store's sums count: run "
            "`ringlens check`."
        )


def _by_chance(
    n_UE: NDArray[np.int64], tokens_U: NDArray[np.int64], n_EE: NDArray[np.int64], groups: int
) -> NDArray[np.float64]:
    """How often chance has pairs of experts meet in some traces, [E, E]."""
    size = len(n_EE) // groups
    between_GG = n_EE.reshape(groups, size, groups, size).sum(axis=(1, 3)).astype(np.float64)
    sum_E = n_EE.sum(axis=1).astype(np.float64)
    return fitted(met_by_chance(n_UE, tokens_U), sum_E, between_GG if groups > 1 else None)


def _committees(cell: _Cell, least: int, seed: int) -> list[dict[str, Any]]:
    """Committees of one layer in one group."""
    i, j = np.triu_indices(len(cell.n_E), 1)
    n_HX, chance_HX = cell.n_HEE[:, i, j], cell.chance_HEE[:, i, j]
    beyond_HX, noise = _beyond(n_HX, chance_HX)
    edge_HX = beyond_HX >= BEYOND * noise

    def found(
        n_X: NDArray[np.float64], chance_X: NDArray[np.float64], edge_X: NDArray[np.bool_]
    ) -> list[NDArray[np.int64]]:
        edges = edge_X & (chance_X > 0)
        weight_EE = np.zeros(cell.n_HEE.shape[1:])
        weight_EE[i[edges], j[edges]] = np.log(n_X[edges] / chance_X[edges])
        return communities(weight_EE + weight_EE.T, seed, least)

    all_traces = found(n_HX.sum(axis=0), chance_HX.sum(axis=0), edge_HX[0] & edge_HX[1])
    if not all_traces:
        return []
    of_half = [found(*each) for each in zip(n_HX, chance_HX, edge_HX, strict=True)]
    rows = [_row(cell, members, of_half) for members in all_traces]
    return sorted(rows, key=lambda row: -row["share"])


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
    ratio_HX = root_HX[:, known_X] / even_HX[:, known_X]
    variance_X = (1 / (4 * chance_HX[:, known_X])).sum(axis=0)
    inflated = np.median((ratio_HX[0] - ratio_HX[1]) ** 2 / variance_X) / _MEDIAN
    return beyond_HX, float(np.sqrt(max(1.0, inflated)))


def _row(
    cell: _Cell, members: NDArray[np.int64], of_half: Sequence[list[NDArray[np.int64]]]
) -> dict[str, Any]:
    """What is said of one committee."""
    alike = [max(half, key=lambda m: _jaccard(m, members), default=None) for half in of_half]
    jaccard = [0.0 if other is None else _jaccard(other, members) for other in alike]
    lifts = [
        _lift(cell.n_HEE[1 - half], cell.chance_HEE[1 - half], other)
        for half, other in enumerate(alike)
        if other is not None and jaccard[half] > 0
    ]
    n, expected = (
        float(each_HEE[:, members][:, :, members].sum()) / 2
        for each_HEE in (cell.n_HEE, cell.chance_HEE)
    )
    return {
        "members": members.tolist(),
        "size": len(members),
        "n": int(n),
        "expected": expected,
        "lift": n / expected,
        "held_out": float(np.mean(lifts)) if lifts else np.nan,
        "share": cell.n_E[members].sum() / cell.n_E.sum(),
        "stability": float(np.mean(jaccard)),
    }


def _lift(
    n_EE: NDArray[np.float64], chance_EE: NDArray[np.float64], members: NDArray[np.int64]
) -> float:
    pairs = np.ix_(members, members)
    expected = chance_EE[pairs].sum()
    return float(n_EE[pairs].sum() / expected) if expected > 0 else np.nan


def _jaccard(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def _refuse_shuffled(store: Source) -> None:
    if isinstance(store, Shuffled):
        raise ConfigError(
            "Shuffled moves the choices of whole tokens, and keeps the experts of a token "
            "together: it is no null of committees. Compare n with expected instead."
        )


def _groups_of(store: Source, selection: Selection) -> int:
    """Groups of experts of the routers.

    Raises:
        StoreError: The runs differ.
    """
    found = store.sql(
        "select distinct groups from runs where run_id in "
        f"(select run_id from token_context where ({selection.where}\n))"
    ).fetchall()
    if len(found) > 1:
        raise StoreError(
            "the selection holds runs whose experts are grouped differently; add `run_id = '…'` "
            "to where."
        )
    return int(found[0][0])


def _spanned(members: pd.Series, experts: int, groups: int) -> list[list[int]]:
    """Groups of experts that members belong to."""
    size = experts // groups
    return [sorted({member // size for member in each}) for each in members]


def _sql(selection: Selection) -> str:
    """SQL that counts the pairs of which committees are made."""
    keys = selection.listed("layer")
    return f"""{numbered(selection)}
select {keys}, expert, other, count(*) as n from (
    select {keys}, expert, unnest(expert_ids) as other
    from (select {keys}, unnest(expert_ids) as expert, expert_ids from chosen))
where expert < other group by all"""
