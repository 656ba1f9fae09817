"""What can be queried: every table and view of a store, with its columns and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ringlens.store.read.store import Store
from ringlens.store.schema import captured, views, views_usage

_MEANINGS = {
    "router_choices": "One row a token, sparse layer and chosen expert: `routing` without lists.",
    "expert_usage": "One row an expert of a run and phase: how much it was used.",
    "trace_summary": "One row a trace: who wrote it, how long it is, how sure the model was.",
}


@dataclass(frozen=True)
class Column:
    """One column: its name, DuckDB's name of its type, and what it means."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A table or a view.

    Attributes:
        name: Its name in SQL.
        view: Whether it is a view, made of tables.
        meaning: One sentence: what a row is.
        columns: All columns, in order.
    """

    name: str
    view: bool
    meaning: str
    columns: tuple[Column, ...]


def catalog(store: Store) -> tuple[Entry, ...]:
    """All tables and views of a store, views first, as most questions begin there.

    A table whose files are missing has no columns.
    """
    people: dict[str, Mapping[str, str]] = {"router_choices": views.ROUTER_CHOICES_COLUMNS}
    people |= {name: columns for name, _, columns, _ in views_usage.VIEWS}
    types = _types(store)

    def entry(name: str, view: bool, meaning: str, columns: Mapping[str, str]) -> Entry:
        found = (Column(each, kind, columns.get(each, "")) for each, kind in types.get(name, ()))
        return Entry(name, view, meaning, tuple(found))

    return (
        *(entry(name, True, _MEANINGS.get(name, ""), columns) for name, columns in people.items()),
        *(
            entry(table.name, False, table.meaning, {c.name: c.meaning for c in table.columns})
            for table in captured.tables()
        ),
    )


def _types(store: Store) -> dict[str, list[tuple[str, str]]]:
    """Column names and types of every table and view that can be opened."""
    rows = store.sql(
        "select table_name, column_name, data_type from duckdb_columns() where not internal"
        " order by table_name, column_index"
    ).fetchall()
    types: dict[str, list[tuple[str, str]]] = {}
    for name, column, kind in rows:
        types.setdefault(name, []).append((column, kind))
    return types
