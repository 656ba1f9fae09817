"""Routing paths: the heaviest expert of each layer of a band.

A single expert serves many purposes; the path of a token over some layers says more of what is done
with it (arXiv 2604.17837).

Shape letters: U traces, X paths, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.selections.expert_counts import rows_by_group
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import Selection, read, traces_of
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.analysis.structure.path_counts import (
    Walked,
    band_of,
    by_trace,
    frequent_paths,
    refuse_none,
    walked,
)
from ringlens.analysis.structure.shifted_layers import coverages
from ringlens.config import refuse_unknown, whole
from ringlens.store.encode.columns import matrix
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

TOP = 100
"""Paths of a group that are listed."""

SHIFTS = 100
"""Most shifts of the layers; no p-value is below 1 / (SHIFTS + 1)."""


@refuse_unknown
def routing_path(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    layers: tuple[int, int] | None = None,
    top: int = TOP,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """List the paths that most tokens take over a band of layers, beside what chance has them be.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all. Tokens without a choice
            on some layer of the band are left out, and imported ones, of whose experts the heaviest
            is unknown.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        layers: First and last layer of the band; None for four in the middle of those that route.
        top: Most paths of a group that are listed.
        draws: Resamples of traces for the intervals, and shifts for the null (at most `SHIFTS`); 0
            for neither.
        seed: Seed of both.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group and path: ``rank``, 1 for the most frequent; ``path``, the heaviest expert
        on each layer; ``n`` tokens that take it; ``tokens`` of the group; ``share`` = n / tokens;
        ``expected``, the share if the layers were independent of each other in each trace (the mean
        over all `Shuffled`); ``lift`` = share / expected; ``coverage``, the share of tokens on this
        path or on one above it; and ``paths``, how many the group has in all. With ``draws``, also
        the 95% interval of the share over traces, ``low`` and ``high``; ``null``, the mean
        coverage of as many paths if each layer's choices are shifted along each trace at random;
        and ``p``, the share of these shifts that cover as much, the data counted. The most frequent
        of many paths are frequent by chance as well, so ``lift`` alone says little of a rare one.
        ``attrs["layers"]`` are the layers of the band.

    Raises:
        ConfigError: A predicate or a setting is wrong.
        StoreError: Nothing is selected, or runs with different routers; the band has fewer than two
            layers with routing, no token has known weights, or an interval is asked for of one
            trace.
    """
    selection = replace(read(store, where, by), sums="")
    router_shape(store, selection)
    traces, band = traces_of(store, selection), band_of(store, selection, layers)
    frequent = frequent_paths(selection, selection, whole("top", top, 1))
    query = f"{frequent}{_beside_chance(selection, len(band))}"
    with Walked(store, selection, band, engine) as paths:
        frame = paths.df(f"with {query}")
        refuse_none(len(frame), selection, band)
        frame["path"] = [[int(expert) for expert in path] for path in frame["path"]]
        if draws:
            found = _uncertain(paths, selection, frequent, draws, seed)
            frame = frame.merge(found, how="left", on=selection.keys("rank"))
    sql = f"with walked as ({walked(selection, band)}),\n{query}"
    return described(frame, selection, traces, sql, layers=list(band))


def _beside_chance(selection: Selection, layers: int) -> str:
    """SQL of the frequent paths, and of the products of loads in each trace."""
    steps = f"select *, unnest(range(1, {layers + 1})) as place from"
    keys = selection.listed("path", prefix="frequent.")
    return f""",
loads as (
    select {selection.listed("trace_id")}, place, path[place] as expert, sum(n) as load
    from ({steps} walks) group by all),
chances as (
    select {keys}, any_value(of_trace.tokens) * product(load / of_trace.tokens) as n
    from ({steps} frequent) as frequent
    join loads on loads.place = frequent.place and loads.expert = frequent.path[frequent.place]
        and {selection.alike("frequent", "loads")}
    join of_trace on of_trace.trace_id = loads.trace_id and {selection.alike("loads", "of_trace")}
    group by {keys}, loads.trace_id having count(*) = {layers}),
expected as (
    select {selection.listed("path")}, sum(n) as n from chances group by {selection.listed("path")})
select {selection.listed("rank", prefix="frequent.")}, frequent.path, frequent.n, tokens,
       frequent.n / tokens as share, expected.n / tokens as expected,
       frequent.n / expected.n as lift, covered / tokens as coverage, paths
from frequent join expected
on expected.path = frequent.path and {selection.alike("frequent", "expected")}
order by {selection.listed("rank", prefix="frequent.")}"""


def _uncertain(
    paths: Walked, selection: Selection, frequent: str, draws: int, seed: int
) -> pd.DataFrame:
    """Intervals of the shares, and the null of the coverage, by group and rank."""
    rng = np.random.default_rng(seed)
    rows = paths.df(f"with {frequent}{by_trace(selection, selection)}")
    table = paths.rows
    path_NL, trace_N = matrix(table["path"]).astype(np.int64), table["trace_id"].to_numpy()
    of_tokens = rows_by_group(table.drop_columns("path").to_pandas(), selection.by)
    found = []
    for values, index in rows_by_group(rows, selection.by).items():
        key = dict(zip(selection.by, values, strict=True))
        n_XU = rows.iloc[index].pivot(index="rank", columns="trace_id", values="n")
        enough_traces(n_XU.shape[1], f"the shares of paths{f' in {key}' if key else ''}")
        n_UX = n_XU.sort_index().fillna(0).to_numpy(np.float64).T
        low, high = _of_shares(n_UX, rng, draws)
        index_N = of_tokens[values]
        observed_X = n_UX[:, 1:].sum(axis=0).cumsum() / len(index_N)
        null_BX = coverages(path_NL[index_N], trace_N[index_N], len(low), rng, min(draws, SHIFTS))
        p_X = ((null_BX >= observed_X - 1e-12).sum(axis=0) + 1) / (len(null_BX) + 1)
        ends = {"rank": np.arange(1, len(low) + 1), "low": low, "high": high}
        found.append(pd.DataFrame(key | ends | {"null": null_BX.mean(axis=0), "p": p_X}))
    return pd.concat(found, ignore_index=True)


def _of_shares(
    n_UX: NDArray[np.float64], rng: np.random.Generator, draws: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the intervals of shares; the first column has the tokens of all paths."""
    U, X = n_UX.shape

    def shares(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.float64]:
        return (times_BU @ n_UX[:, 1:][:, part]) / (times_BU @ n_UX[:, :1])

    return intervals(shares, [U], X - 1, rng, draws)
