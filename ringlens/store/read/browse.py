"""A store as a collection of traces, by their ids."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ringlens.errors import NotInStoreError
from ringlens.store.read.trace import Trace

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

TOGETHER = 64
"""Traces whose rows one query reads."""


def count(store: Store) -> int:
    """Number of traces, from the manifest."""
    return sum(file.rows for file in store.snapshot().get("traces", ()))


def trace_ids(store: Store, first: int = 0, last: int = 2**63 - 1) -> NDArray[np.int64]:
    """Ids of the traces from ``first`` to ``last``, ascending."""
    rows = store.scan("traces", store.files("traces", first, last))
    query = f"select trace_id from {rows} where trace_id between ? and ? order by trace_id"
    return store.sql(query, [first, last]).to_arrow_table()["trace_id"].to_numpy()


def traces(store: Store) -> Iterator[Trace]:
    """Traces in the order of their ids; their rows are read a few at a time."""
    ids = trace_ids(store)
    for at in range(0, len(ids), TOGETHER):
        first, last = int(ids[at]), int(ids[at : at + TOGETHER][-1])
        rows = store.scan("traces", store.files("traces", first, last))
        query = f"select * from {rows} where trace_id between ? and ? order by trace_id"
        for row in store.sql(query, [first, last]).to_arrow_table().to_pylist():
            yield Trace(store, row["trace_id"], row)


def contains(store: Store, trace_id: object) -> bool:
    """Whether there is a trace with this id."""
    if not isinstance(trace_id, Integral) or isinstance(trace_id, bool):
        return False
    if not 0 <= int(trace_id) < 2**63:
        return False
    return bool(len(trace_ids(store, int(trace_id), int(trace_id))))


def between(store: Store, ids: slice) -> list[Trace]:
    """Traces whose ids are in a slice: from ``start`` to before ``stop``.

    Raises:
        NotInStoreError: A bound is negative, or a step is given.
    """
    if ids.step not in (None, 1):
        raise NotInStoreError(f"a step of {ids.step!r:.60}: traces go by id, without a step")
    first, stop = (_bound(each) for each in (ids.start, ids.stop))
    last = 2**63 - 1 if stop is None else stop - 1
    return [Trace(store, int(each)) for each in trace_ids(store, first or 0, last)]


def _bound(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**63:
        return int(value)
    raise NotInStoreError(
        f"trace id {value!r:.60}: a slice goes by ids, which are whole numbers, 0 or more"
    )
