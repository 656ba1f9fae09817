"""Catalog of a store: every table and view that can be queried, with the meaning of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ringlens.store.read.store import Store
from ringlens.store.schema import views, views_usage

_INTERNAL = "^(collate|icu|pg|has|inet|map_to|txid|obj|shobj|col|st|uuid|variant|json_serialize)_"

_MEANINGS = {
    "router_choices": "One row per token, sparse layer and chosen expert: `routing` without lists.",
    "expert_usage": "One row per run, phase and expert: how much the expert was used.",
    "trace_summary": "One row per trace: its model, its length, and how certain the model was.",
    "token_context": "One row per token: itself, its trace, its run and its step.",
    "current_annotations": "One row per annotation that stands: not corrected, not retracted.",
}


@dataclass(frozen=True)
class Column:
    """One column: its name, its DuckDB type and its meaning."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A table or a view.

    Attributes:
        name: Name in SQL.
        view: Whether it is a view.
        meaning: One sentence that says what a row is.
        columns: All columns, in order.
    """

    name: str
    view: bool
    meaning: str
    columns: tuple[Column, ...]


def catalog(store: Store) -> tuple[Entry, ...]:
    """List all tables and views of a store, views first, as most questions start there.

    A table whose files are missing has no columns.
    """
    view_columns: dict[str, Mapping[str, str]] = {"router_choices": views.ROUTER_CHOICES_COLUMNS}
    view_columns |= {name: columns for name, _, columns, _ in views_usage.VIEWS}
    types = _types(store)

    def entry(name: str, view: bool, meaning: str, columns: Mapping[str, str]) -> Entry:
        found = (Column(each, kind, columns.get(each, "")) for each, kind in types.get(name, ()))
        return Entry(name, view, meaning, tuple(found))

    return (
        *(entry(name, True, _MEANINGS.get(name, ""), cols) for name, cols in view_columns.items()),
        *(
            entry(table.name, False, table.meaning, {c.name: c.meaning for c in table.columns})
            for table in (*store.tables(), *store.foreign_tables())
        ),
    )


def functions(store: Store) -> list[str]:
    """List the functions of DuckDB that a person writes, by name: no operators, no internals."""
    rows = store.sql(
        "select distinct lower(function_name) from duckdb_functions()"
        " where function_type in ('scalar', 'aggregate', 'macro', 'window')"
        " and regexp_full_match(function_name, '[a-z][a-z0-9_]*')"
        f" and not regexp_matches(function_name, '{_INTERNAL}') order by 1"
    ).fetchall()
    return [name for (name,) in rows]


def _types(store: Store) -> dict[str, list[tuple[str, str]]]:
    """Names and types of the columns of every table and view that can be opened."""
    rows = store.sql(
        "select table_name, column_name, data_type from duckdb_columns() where not internal"
        " order by table_name, column_index"
    ).fetchall()
    types: dict[str, list[tuple[str, str]]] = {}
    for name, column, kind in rows:
        types.setdefault(name, []).append((column, kind))
    return types
