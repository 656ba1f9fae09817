"""Promise: the tables and rows that must exist according to a run's own row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.config import Chosen, OnLayers, Recorded, read_request
from ringlens.errors import ConfigError
from ringlens.store.schema.instruments import declaration_of, named
from ringlens.store.schema.recorded_tables import TOKENS
from ringlens.store.schema.usage_tables import TABLES


@dataclass(frozen=True)
class Promise:
    """What a run recorded, except for what is noted as lost.

    Attributes:
        tables: Tables with rows for every token of every trace, other than ``tokens``.
        layers: The layers of those of them that were recorded on some layers only, ascending.
        chosen: Requests for chosen layers, heads and positions.
        rollups: Tables that sum up the routing.
        without: Traces whose rows are noted as lost, by table.
        unknown: Words in ``record`` that this version does not know.
    """

    tables: tuple[str, ...]
    layers: Mapping[str, tuple[int, ...]]
    chosen: tuple[Chosen, ...]
    rollups: tuple[str, ...]
    without: Mapping[str, frozenset[int]]
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Promise:
        """Read a row of ``runs``; unknown words promise nothing."""
        lost = set(run.get("lost") or ())
        read = {text: _read(text) for text in run["record"]}
        named_items = {
            item if isinstance(item, str) else item.name: item
            for item in read.values()
            if isinstance(item, str | OnLayers)
        }
        recorded = [d.table for name, d in named().items() if name in named_items]
        names = [t.name for t in recorded if t != TOKENS and t.name not in lost]
        if not run["sparse_layers"]:
            sparse = {table.name for table in recorded if table.is_sparse}
            names = [name for name in names if name not in sparse]
        chosen = [item for item in read.values() if isinstance(item, Chosen)]
        return cls(
            tuple(names),
            {
                named()[name].table.name: item.layers
                for name, item in named_items.items()
                if isinstance(item, OnLayers)
            },
            tuple(item for item in chosen if table_of(item) not in lost),
            tuple(t.name for t in TABLES if "routing" in names and t.name not in lost),
            _by_table(lost),
            tuple(text for text, item in read.items() if item is None),
        )


def recorded_layers(run: Mapping[str, Any], table: str) -> tuple[int, ...]:
    """Layers of which a run recorded a table, ascending, be it lost since; none if it did not.

    Args:
        run: A row of ``runs``.
        table: Name of a table with layers that instruments fill, other than one of chosen vectors
            and positions.
    """
    promise = Promise.of({**run, "lost": None})
    if table not in promise.tables:
        return ()
    if table in promise.layers:
        return promise.layers[table]
    sparse = next(d.table for d in named().values() if d.table.name == table).is_sparse
    return tuple(run["sparse_layers"] if sparse else range(run["layers"]))


def lost_rows(table: str, trace_id: int) -> str:
    """Note in ``lost`` that stands for the rows of one trace in a table."""
    return f"{table}/{trace_id}"


def _by_table(lost: Iterable[str]) -> dict[str, frozenset[int]]:
    """Traces without rows, by table."""
    found: dict[str, set[int]] = {}
    for note in lost:
        table, _, trace_id = note.partition("/")
        if trace_id.isdecimal():
            found.setdefault(table, set()).add(int(trace_id))
    return {table: frozenset(ids) for table, ids in found.items()}


def _read(text: str) -> Recorded | None:
    try:
        item = read_request(text, tuple(named()))
    except ConfigError:  # a request of a later ringlens
        return None
    is_known = not isinstance(item, str) or item in named()
    return item if is_known else None


def table_of(item: Chosen) -> str:
    """Name of the table that holds what was requested."""
    return declaration_of(item).table.name


def rows_of(item: Chosen, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of rows of a request in traces with these numbers of tokens."""
    start, stop = item.span
    last = tokens if stop is None else np.minimum(tokens, stop)
    return (
        np.maximum(last - start, 0) * max(1, len(item.layers or ())) * max(1, len(item.heads or ()))
    )
