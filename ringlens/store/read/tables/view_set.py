"""ViewSet: the views of a store in its DuckDB connection, each made when a query names it.

DuckDB binds a view when it is made, one or two milliseconds each: all of them take longer than the
rest of opening a store, and most queries name one or two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import duckdb

from ringlens.store.manifest.manifest import File
from ringlens.store.read.intact import Guard
from ringlens.store.schema import views
from ringlens.store.schema.table import Table
from ringlens.store.schema.views_usage import DERIVED
from ringlens.store.storage.folder import Folder

SqlPath = Callable[[str], str]
"""Gives the path by which DuckDB opens a file of the store."""

# A query with one of these may list all views, or name one by a text that it puts together.
_LISTS = re.compile(
    r"\b(show|desc|describe|summarize|pragma|information_schema|query|query_table|"
    r"(duckdb|pg|sqlite)_\w+)\b",
    re.IGNORECASE,
)


class ViewSet:
    """The views of a store: those that exist are all of one commit.

    Not safe for threads; what queries bind meanwhile is of one commit all the same.

    Args:
        connection: Where they are made.
        folder: The store's.
        guard: Sees the files that a query reads.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Folder, guard: Guard) -> None:
        self._connection, self._folder, self._guard = connection, folder, guard
        self._tables: Mapping[str, Table] = {}
        self._files: Mapping[str, Sequence[File]] = {}
        self._made: set[str] = set()
        # Tables with a missing file: these have no view, and fail when queried.
        self._lost: set[str] = set()

    def renew(self, tables: Mapping[str, Table], files: Mapping[str, Sequence[File]]) -> None:
        """Show another commit, its files by table: replace the views that exist, at once."""
        self._tables, self._files, self._lost = tables, files, set()
        if self._made:
            self._make_readable(self._made)

    def make_named(self, query: str) -> None:
        """Make the views that a query may read."""
        text = str(query)  # DuckDB takes statements that it has parsed as well
        named = self._named(text)
        if not named or _LISTS.search(text):
            self.make_all()
            return
        reached: set[str] = set()
        while named:
            reached |= named
            named = {n for each in named for n in self._read_by(each)} - reached
        if missing := reached - self._made:
            self._make_readable(missing)

    def make_all(self) -> bool:
        """Make all views; whether there were any to make."""
        missing = set(self._names()) - self._made
        if missing:
            self._make_readable(missing)
        return bool(missing)

    def statements(self) -> list[str]:
        """SQL that creates all views elsewhere, with paths relative to the store."""
        self.make_all()  # which finds what is lost
        return [self._statement(name, str) for name in self._names()]

    def _names(self) -> Iterator[str]:
        """Names of all views, each after those that it reads."""
        yield from self._tables
        yield from DERIVED

    def _named(self, text: str) -> set[str]:
        lower = text.lower()
        return {name for name in self._names() if name in lower}

    def _read_by(self, name: str) -> set[str]:
        """Views that a view may read; tables read files."""
        return set() if name in self._tables else self._named(DERIVED[name][0]) - {name}

    def _statement(self, name: str, sql_path: SqlPath, guard: str = "") -> str:
        sources = (name,) if name in self._tables else DERIVED[name][1] if name in DERIVED else ()
        if self._lost & set(sources) or not sources:
            return f"drop view if exists {views.quote(name)}"
        if name in DERIVED:
            return DERIVED[name][0]
        paths = [sql_path(file.path) for file in self._files.get(name, ())]
        return views.table_view(self._tables[name], paths, guard)

    def _make_readable(self, names: set[str]) -> None:
        """Make views; where a file is missing, all are made anew without those of its table."""
        try:
            self._make(names)
        except duckdb.IOException:
            files = (file for each in self._files.values() for file in each)
            self._lost = {file.table for file in files if not self._folder.exists(file.path)}
            self._make(names | self._made)

    def _make(self, names: set[str]) -> None:
        """Replace views in one transaction, so that no query sees a mix of two commits."""
        gone = names - set(self._names())  # foreign tables whose last file is gone
        cursor = self._connection.cursor()
        cursor.execute("begin")
        try:
            with self._guard.paused():  # creating a view binds its query, but reads no rows
                for name in (*sorted(gone), *(n for n in self._names() if n in names)):
                    cursor.execute(self._statement(name, self._folder.sql_path, self._guard.NAME))
        except duckdb.Error:
            cursor.execute("rollback")
            raise
        cursor.execute("commit")
        self._made = (self._made | names) - gone
