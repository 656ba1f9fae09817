"""The routers that a selection is about: expert 3 of one is not expert 3 of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ringlens.analysis.scans.kept import once
from ringlens.analysis.selections.selection import Selection
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

Run = Mapping[str, Any]

_RUNS = "select run_id, model, experts, experts_per_token, groups from runs"


def router_shape(store: Source, selection: Selection) -> tuple[int, int]:
    """Experts of a layer and experts per token, of the runs that a selection reaches.

    Raises:
        StoreError: The runs have different routers.
    """
    run = _router(store, selection, "experts", "experts_per_token")
    return run["experts"], run["experts_per_token"]


def router_groups(store: Source, selection: Selection) -> int:
    """Groups of experts of the routers that a selection reaches.

    Raises:
        StoreError: The runs have different routers.
    """
    return int(_router(store, selection, "groups")["groups"])


def one_router(runs: Sequence[Run], *columns: str) -> Run:
    """Refuse runs with different routers.

    Args:
        runs: Rows of ``runs``, one or more.
        *columns: Columns that must be equal in all.

    Returns:
        The first row.

    Raises:
        StoreError: They differ; the message names two of the runs.
    """
    first = runs[0]
    for other, column in ((run, column) for run in runs for column in columns):
        if other[column] != first[column]:
            raise StoreError(
                f"runs {first['run_id']} ({first['model']:.60}) and {other['run_id']} "
                f"({other['model']:.60}) have different routers ({column} = {first[column]} and "
                f"{other[column]}): take one, with where=\"run_id = '{first['run_id']}'\""
            )
    return first


def _router(store: Source, selection: Selection, *columns: str) -> Run:
    """The router of a selection; if all runs have the same, its tokens need not be read."""
    every = once(store, _every_run)
    if every and all(run[name] == every[0][name] for run in every for name in columns):
        return every[0]
    runs = _rows(store, f"{_RUNS} where {selection.of_runs} order by started, run_id")
    if not runs:
        raise StoreError(f"no token is selected by {selection.where!r:.200}; widen the selection.")
    return one_router(runs, *columns)


def _every_run(store: Source) -> list[Run]:
    return _rows(store, _RUNS)


def _rows(store: Source, query: str) -> list[Run]:
    found: list[Run] = store.sql(query).to_arrow_table().to_pylist()
    return found
