"""Clusters of routing paths that run alike, and which tokens run along them.

Shape letters: X paths, L layers of a band, U traces, C clusters, V values of a column, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ringlens.analysis.selections.expert_counts import rows_by_group
from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.router import router_shape
from ringlens.analysis.selections.selection import read, traces_of
from ringlens.analysis.statistics.bootstrap import DRAWS, enough_traces, intervals
from ringlens.analysis.structure.communities import communities
from ringlens.analysis.structure.path_counts import (
    Walked,
    band_of,
    by_trace,
    frequent_paths,
    refuse_none,
    walked,
)
from ringlens.config import known_only, refuse_unknown, whole
from ringlens.errors import ConfigError
from ringlens.store.maintain.engine import LOCAL, Engine
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

TOP = 500
"""Paths of a group that are clustered, the most frequent ones."""

LEAST = 2
"""Fewest paths of a cluster."""

MOST = 200
"""Most values of a column that are told apart."""

COLUMNS = ("n", "tokens", "share", "overall", "lift")

_ALL = slice(None)


@refuse_unknown
def path_clusters(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    over: str = "phase",
    layers: tuple[int, int] | None = None,
    top: int = TOP,
    apart: int = 1,
    draws: int = DRAWS,
    seed: int = 0,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Cluster the most frequent paths, and measure which tokens run along each cluster.

    Two paths run alike if their experts differ on at most ``apart`` layers (their Hamming
    distance); clusters are communities of the graph of paths that run alike, by the Leiden method,
    with the share of layers that they have in common as weight.

    Args:
        store: The store.
        where: As in `routing_path`.
        by: Columns of `token_context` to group by; the phase is added where nothing names it, nor
            ``over``.
        over: The column whose values are told apart along a cluster, for example "phase" or "role".
        layers: As in `routing_path`.
        top: Most paths of a group that are clustered.
        apart: Most layers on which two paths that run alike differ.
        draws: Resamples of traces for the intervals; 0 for no intervals.
        seed: Seed of the search and of the resampling.
        engine: Scans the store, in this process or on a cluster.

    Returns:
        A row per group, cluster and value of ``over``: ``cluster``, 1 for the one that most tokens
        take; ``center``, its most frequent path; ``size``, how many paths it has; ``n`` tokens with
        the value that take it; ``tokens`` with the value; ``share`` = n / tokens; ``overall``, the
        share of all tokens that take it; and ``lift`` = share / overall, 1 if the cluster has
        nothing to do with the value, with its 95% interval over traces ``low`` and ``high`` (NaN
        where a resample may lack the value). Paths that run alone have no row. ``attrs`` holds the
        ``layers`` of the band, and ``sql``, which counts the tokens of each path.

    Raises:
        ConfigError: A predicate or a setting is wrong.
        StoreError: As `routing_path`.
    """
    known_only([over], TOKEN_CONTEXT_COLUMNS, "column")
    given = (by,) if isinstance(by, str) else tuple(by)
    selection = read(store, where, (*given, *(name for name in [over] if name not in given)))
    router_shape(store, selection)
    traces, band = traces_of(store, selection), band_of(store, selection, layers)
    apart, top = whole("apart", apart, 1, len(band) - 1), whole("top", top, LEAST)
    groups = replace(selection, by=tuple(name for name in selection.by if name != over))
    frequent = frequent_paths(selection, groups, top)
    listed = groups.listed("rank", "path")
    query = f"{frequent}{by_trace(selection, groups)}"
    with Walked(store, selection, band, engine) as tokens:
        paths = tokens.df(f"with {frequent} select {listed} from frequent order by rank")
        refuse_none(len(paths), selection, band)
        rows = tokens.df(f"with {query}")
    of_rows, rng = rows_by_group(rows, groups.by), np.random.default_rng(seed)
    found = []
    for values, index in rows_by_group(paths, groups.by).items():
        path_XL = np.array(paths["path"].iloc[index].tolist(), np.int64)
        clusters = communities(_alike(path_XL, apart), seed, LEAST)
        key = dict(zip(groups.by, values, strict=True))
        if draws:
            traces_here = rows["trace_id"].iloc[of_rows[values]].nunique()
            enough_traces(traces_here, f"the lift of clusters{f' in {key}' if key else ''}")
        if clusters:
            counts = _counted(rows.iloc[of_rows[values]], clusters, over)
            found.append(_table(key, path_XL, clusters, counts, over, rng, draws))
    columns = [*groups.by, "cluster", "center", "size", over, *COLUMNS]
    columns += ["low", "high"] if draws else []
    frame = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
    sql = f"with walked as ({walked(selection, band)}),\n{query}"
    return described(frame, replace(selection, sums=""), traces, sql, layers=list(band), over=over)


def _alike(path_XL: NDArray[np.int64], apart: int) -> NDArray[np.float64]:
    """Share of layers that two paths have in common, [X, X]; 0 where they do not run alike."""
    common_XX = (path_XL[:, None, :] == path_XL[None, :, :]).sum(axis=2)
    np.fill_diagonal(common_XX, 0)
    L = path_XL.shape[1]
    return np.where(common_XX >= L - apart, common_XX / L, 0)


@dataclass(frozen=True)
class _Counts:
    """Tokens of one group.

    Attributes:
        value_V: Values of the column that is told apart.
        n_UCV: Tokens that take a path of each cluster, by trace and value.
        tokens_UV: Tokens on any path.
    """

    value_V: Sequence[Any]
    n_UCV: NDArray[np.float64]
    tokens_UV: NDArray[np.float64]


def _counted(rows: pd.DataFrame, clusters: list[NDArray[np.int64]], over: str) -> _Counts:
    """Sum up the rows of `by_trace`."""
    cluster_X = np.full(int(rows["rank"].max()) + 1, -1)
    for number, members in enumerate(clusters):
        cluster_X[members + 1] = number  # ranks begin at 1
    value_R, value_V = pd.factorize(rows[over], use_na_sentinel=False)
    if len(value_V) > MOST:
        raise ConfigError(
            f"over = {over!r} has {len(value_V):,} values in the selection, and {MOST} are told "
            "apart; choose a column of kinds, such as 'role', or select less."
        )
    trace_R, traces = pd.factorize(rows["trace_id"])
    rank_R, n_R = rows["rank"].to_numpy(), rows["n"].to_numpy(np.float64)
    tokens_UV = np.zeros((len(traces), len(value_V)))
    all_R, on_R = rank_R == 0, cluster_X[rank_R] >= 0
    np.add.at(tokens_UV, (trace_R[all_R], value_R[all_R]), n_R[all_R])
    n_UCV = np.zeros((len(traces), len(clusters), len(value_V)))
    np.add.at(n_UCV, (trace_R[on_R], cluster_X[rank_R[on_R]], value_R[on_R]), n_R[on_R])
    return _Counts(list(value_V), n_UCV, tokens_UV)


def _table(
    key: dict[str, Any],
    path_XL: NDArray[np.int64],
    clusters: list[NDArray[np.int64]],
    counts: _Counts,
    over: str,
    rng: np.random.Generator,
    draws: int,
) -> pd.DataFrame:
    """Clusters of one group with each value, the one that most tokens take first."""
    U, C, V = counts.n_UCV.shape
    n_CV, tokens_V = counts.n_UCV.sum(axis=0), counts.tokens_UV.sum(axis=0)
    measured = pd.DataFrame(
        {
            over: [None if pd.isna(value) else value for value in counts.value_V] * C,
            "n": n_CV.ravel().astype(np.int64),
            "tokens": np.tile(tokens_V.astype(np.int64), C),
            "share": (n_CV / tokens_V).ravel(),
            "overall": np.repeat(n_CV.sum(axis=1) / tokens_V.sum(), V),
            "lift": _lifts(counts, np.ones((1, U)))[0],
        }
    )
    if draws:

        def statistic(times_BU: NDArray[np.float64], part: slice) -> NDArray[np.float64]:
            return _lifts(counts, times_BU, part)

        measured["low"], measured["high"] = intervals(statistic, [U], C * V, rng, draws)
    rows = []
    for number, c in enumerate(np.argsort(-n_CV.sum(axis=1), kind="stable"), 1):
        own = measured.iloc[c * V : (c + 1) * V].copy()
        own.insert(0, "size", len(clusters[c]))
        own.insert(0, "center", [path_XL[clusters[c][0]].tolist()] * V)
        own.insert(0, "cluster", number)
        rows.append(own)
    frame = pd.concat(rows)
    for place, (name, value) in enumerate(key.items()):
        frame.insert(place, name, value)
    return frame


def _lifts(
    counts: _Counts, times_BU: NDArray[np.float64], part: slice = _ALL
) -> NDArray[np.float64]:
    """Lifts of clusters and values in resamples, [B, C·V], or of a part of them."""
    U, C, V = counts.n_UCV.shape
    cluster_X, value_X = np.repeat(np.arange(C), V)[part], np.tile(np.arange(V), C)[part]
    n_BX = times_BU @ counts.n_UCV.reshape(U, C * V)[:, part]
    n_BC, tokens_BV = times_BU @ counts.n_UCV.sum(axis=2), times_BU @ counts.tokens_UV
    with np.errstate(invalid="ignore", divide="ignore"):
        overall_BC = n_BC / tokens_BV.sum(axis=1, keepdims=True)
        return n_BX / tokens_BV[:, value_X] / overall_BC[:, cluster_X]
