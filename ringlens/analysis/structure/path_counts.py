"""Counts of the paths that tokens take over a band of layers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import pyarrow as pa

from ringlens.analysis.scans.choices import layers_of
from ringlens.analysis.scans.parts import Traces, by_traces, each
from ringlens.analysis.selections.expert_counts import chosen_tokens
from ringlens.analysis.selections.selection import Selection
from ringlens.config import whole
from ringlens.errors import ConfigError, StoreError
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

BAND = 4
"""Layers of a band that is not given."""


def band_of(store: Source, selection: Selection, layers: tuple[int, int] | None) -> tuple[int, ...]:
    """Layers of a band that route.

    Args:
        store: The store.
        selection: The tokens.
        layers: First and last layer; None for `BAND` ones in the middle of those that route.

    Raises:
        ConfigError: It is no pair of layers.
        StoreError: Fewer than two layers of it have routing.
    """
    routed = tuple(layers_of(store, selection.where))
    if layers is None:
        start = max(0, (len(routed) - BAND) // 2)
        band = routed[start : start + BAND]
    else:
        first, last = _ends(layers)
        band = tuple(layer for layer in routed if first <= layer <= last)
    if len(band) < 2:
        raise StoreError(
            f"a path takes two layers or more, and the band {layers} has the routing of "
            f"{len(band)}; recorded are {', '.join(map(str, routed)) or 'none'}."
        )
    return band


def walked(selection: Selection, band: tuple[int, ...]) -> str:
    """SQL of the path of each token, the list of its heaviest experts by layer.

    Tokens that lack a layer, or the weights, have none.
    """
    chosen = chosen_tokens(selection, "expert_ids[1] as expert", "margin")
    listed = ", ".join(map(str, band))
    return f"""
    select {selection.listed("trace_id", "pos")}, list(expert order by layer) as path
    from {chosen} where layer in ({listed}) and margin is not null
    group by {selection.listed("trace_id", "pos")} having count(*) = {len(band)}"""


class Walked(AbstractContextManager["Walked"]):
    """The paths of a selection's tokens, read once and asked as a table ``walked``.

    Args:
        store: The store.
        selection: The tokens.
        band: The layers.
        engine: Reads ranges of traces, in this process or on a cluster.
    """

    def __init__(
        self, store: Source, selection: Selection, band: tuple[int, ...], engine: Engine = LOCAL
    ) -> None:
        read = partial(_walked, selection=selection, band=band)
        self.rows = pa.concat_tables(each(store, read, by_traces(store, engine), engine)).sort_by(
            [("trace_id", "ascending"), ("pos", "ascending")]
        )
        # Several threads would add the same numbers in another order each time.
        self._connection = duckdb.connect(config={"threads": 1})
        self._connection.register("walked", self.rows)

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def df(self, query: str) -> pd.DataFrame:
        """The rows of a query over ``walked``."""
        return self._connection.execute(query).df()


def _walked(store: Source, traces: Traces, selection: Selection, band: tuple[int, ...]) -> pa.Table:
    return store.sql(walked(selection.part(traces), band)).to_arrow_table()


def frequent_paths(selection: Selection, groups: Selection, top: int) -> str:
    """SQL, for a with-clause after `walked`, of ``frequent``: what most tokens of a group take.

    Args:
        selection: The tokens, and what is told apart by trace in ``walks``.
        groups: The groups, by some of these columns.
        top: Most paths of a group.
    """
    keys, apart = groups.listed("path"), groups.partition
    return f"""walks as (
    select {selection.listed("trace_id", "path")}, count(*) as n from walked group by all),
ranked as (
    select {keys}, sum(n)::bigint as n, (sum(sum(n)) over ({apart}))::bigint as tokens,
           count(*) over ({apart}) as paths,
           row_number() over ({apart} order by sum(n) desc, path) as rank
    from walks group by {keys}),
frequent as (
    select *, sum(n) over ({apart} order by rank) as covered from ranked qualify rank <= {top}),
of_trace as (
    select {selection.listed("trace_id")}, sum(n)::bigint as tokens from walks
    group by {selection.listed("trace_id")})"""


def by_trace(selection: Selection, groups: Selection) -> str:
    """SQL of how often each trace takes each frequent path; rank 0 has the tokens of all paths."""
    return f"""
select {selection.listed("trace_id", prefix="walks.")}, rank, walks.n
from frequent join walks on walks.path = frequent.path and {groups.alike("frequent", "walks")}
union all by name
select {selection.listed("trace_id")}, 0 as rank, tokens as n from of_trace"""


def refuse_none(found: int, selection: Selection, band: tuple[int, ...]) -> None:
    """Refuse a selection without paths.

    Raises:
        StoreError: None were found.
    """
    if not found:
        raise StoreError(
            f"no token selected by {selection.where!r:.200} has known weights on all of the layers "
            f"{', '.join(map(str, band))}; imported runs do not tell the heaviest expert."
        )


def _ends(layers: object) -> tuple[int, int]:
    if not isinstance(layers, tuple | list) or len(layers) != 2:
        raise ConfigError(
            f"layers = {layers!r:.60}; give the first and the last layer of the band, (8, 11)."
        )
    first, last = (whole("layers", layer, 0) for layer in layers)
    return first, last
