"""Queries that are answered some layers at a time, on a cluster, or all at once.

Every row of such a query is about one layer, so it is counted whole in one place: medians and sums
are the same, bit for bit, however the layers are shared out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from ringlens.analysis.scans.choices import layers_of, shares
from ringlens.analysis.scans.parts import each
from ringlens.analysis.selections.selection import Selection
from ringlens.store.maintain.engine import LOCAL, Engine

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source


def layer_parts(store: Source, selection: Selection, engine: Engine = LOCAL) -> list[Selection]:
    """Divide a selection by layers for a cluster; in this process it is one part."""
    if engine is LOCAL:
        return [selection]
    return [replace(selection, layers=share) for share in shares(layers_of(store, selection.where))]


def rows_by_layers(
    store: Source,
    selection: Selection,
    query: Callable[[Selection], str],
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Run a query that has a row per group and layer.

    Args:
        store: The store.
        selection: The tokens.
        query: Gives its SQL for some of the layers; must be picklable for a cluster.
        engine: Runs it.

    Returns:
        The rows, in the order of group and layer.
    """
    parts = layer_parts(store, selection, engine)
    rows = each(store, partial(_rows, query=query), parts, engine)
    found = pd.concat(rows, ignore_index=True) if rows else _rows(store, selection, query)
    return found.sort_values(selection.keys("layer"), ignore_index=True, kind="stable")


def _rows(store: Source, selection: Selection, query: Callable[[Selection], str]) -> pd.DataFrame:
    return store.sql(query(selection)).df()
