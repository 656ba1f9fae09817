"""All layers' rows of a few neighbouring tokens, cut from stretches that are kept.

A stretch is as long as a row group: what is decoded for some tokens serves those beside them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from ringlens.app.shared.kept import Kept
from ringlens.store import Store
from ringlens.store.read.within import within
from ringlens.store.schema.table import ROUTING_GROUP, Table

KEPT = 3
"""Stretches that are kept: 17 MB each of Ring-1T's routing, 31 MB of its heads' statistics."""


def rows(
    store: Store, table: Table, trace_id: int, start: int, end: int, columns: Sequence[str]
) -> pa.Table:
    """Return rows of tokens ``start`` to ``end`` of a trace, in order (layer, pos)."""
    length = (table.row_group or ROUTING_GROUP).positions
    files = store.files(table.name, trace_id, trace_id)
    parts = []
    for first in range(start // length * length, end, length):
        ranges = {"trace_id": (trace_id, trace_id), "pos": (first, first + length - 1)}
        read = partial(within, store, table, files, ranges, columns)
        key = table.name, trace_id, first, tuple(columns)
        parts.append(_between(store.once(_kept).get(key, read), start, end))
    found = pa.concat_tables(parts)
    return found.take(np.lexsort((found["pos"].to_numpy(), found["layer"].to_numpy())))


def _between(rows: pa.Table, start: int, end: int) -> pa.Table:
    """Keep the rows of some tokens."""
    pos_R = rows["pos"].to_numpy()
    return rows.take(np.flatnonzero((pos_R >= start) & (pos_R < end)))


def _kept(store: Store) -> Kept[pa.Table]:
    """Hold the last stretches of a store."""
    del store
    return Kept(KEPT)
