"""Store: reads a folder of committed Parquet files as SQL tables and numpy arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ringlens.config import refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.read.damage import explain, tables_named
from ringlens.store.read.foreign import ForeignTables
from ringlens.store.read.relation import Relation
from ringlens.store.read.trace import Trace
from ringlens.store.schema import captured, views, views_usage
from ringlens.store.schema.table import Table
from ringlens.store.storage import layout
from ringlens.store.storage.failure import store_errors
from ringlens.store.storage.folder import folder_at

REMOTE_THREADS = 8
"""Smallest number of threads for a remote store: they mostly wait for the server."""

MOST_EXPERTS = 2**16
"""Queries see ids of experts in one type, however few a model has."""

Parameters = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True)
class Definitions:
    """SQL that defines the tables of a store in another process.

    Attributes:
        sequence: Grows with each commit.
        views: Statements that create all tables and views, with paths relative to the store.
        paths: Paths in the store of the committed files.
        folders: Folders of the store that contain these files.
        columns: Columns of the tables and views, by name.
    """

    sequence: int
    views: tuple[str, ...]
    paths: tuple[str, ...]
    folders: tuple[str, ...]
    columns: Mapping[str, Sequence[str]]


class Store(AbstractContextManager["Store"]):
    """A store opened for reading; nothing in it is ever changed.

    Every query sees all commits that were complete when it was made (0.2 seconds before, for a
    remote store), so a running capture can be watched. Any thread may query.

    A file is compared with its checksum before a process reads it for the first time. Two cases are
    left to `ringlens check` unless ``verify`` is True: a query that may read more than 1 GiB of
    files that were not compared yet, and a remote store.

    Args:
        path: Folder or address of the store.
        verify: True to compare all files that are read, False to compare none, None to decide as
            described above or by the environment variable ``RINGLENS_VERIFY`` (1 or 0).

    Attributes:
        folder: The store's folder.
        verify: The argument, or what the environment sets.

    Raises:
        StoreError: There is no store, or this version cannot read it.
    """

    @refuse_unknown
    def __init__(self, path: str | Path, *, verify: bool | None = None) -> None:
        self.folder = folder_at(path)
        self.verify = intact.wanted(verify)
        self._guard = intact.Guard(self.folder, self.verify)
        layout.read_marker(self.folder)
        self._lock = threading.Lock()
        self._sequence = -1
        self._files: list[File] = []
        self._by_table: dict[str, list[File]] = {}
        self._foreign = ForeignTables(self.folder)
        self._tables: dict[str, Table] = {}
        self._shown: dict[str, Table] = {}
        self._lost: set[str] = set()
        self._faults: dict[str, str] = {}
        self._definitions: Definitions | None = None
        with store_errors(self.folder, "the store was not opened"):
            self._manifest = self.folder.open_manifest()
        self._connection = duckdb.connect(
            config={
                "python_enable_replacements": "false",  # names are tables, not Python variables
                "autoinstall_known_extensions": "false",  # reading a store needs no network
                "parquet_metadata_cache": "true",  # committed files never change
            }
        )
        self.folder.register_with(self._connection)
        self._connection.create_function(
            self._guard.NAME,
            self._guard,
            ["VARCHAR[]"],
            "VARCHAR[]",
        )
        if not self.folder.is_local:
            self._connection.execute(f"set threads = {max(REMOTE_THREADS, os.cpu_count() or 1)}")
        self._refresh()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.address!r})"

    @property
    def address(self) -> str:
        """Absolute path or address that reopens this store."""
        return self.folder.address

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """The store's folder on this machine; raises StoreError for a remote store."""
        return self.folder.path

    def close(self) -> None:
        """Close the store."""
        self._manifest.close()
        self._connection.close()

    def sql(self, query: str, params: Parameters | None = None) -> Relation:
        """Query the store.

        Tables: ``runs``, ``experts``, ``traces``, ``tokens``, ``routing``, ``router_logits``,
        ``heads``, ``head_blocks``, ``steps``, ``head_steps``, ``activations``, ``attention``,
        ``probes``, ``usage_traces``, ``usage_blocks`` (see `ringlens.store.schema`) and the views
        ``router_choices`` (trace_id, layer, pos, rank from 0, expert, weight, affinity,
        bias_flip), one row per chosen expert, ``expert_usage``, ``trace_summary`` and
        ``token_context`` (see `ringlens.store.schema.views_usage`). Further instruments have their
        own tables, and tables of another version of ringlens appear with the columns of their
        files.

        Args:
            query: A query in DuckDB's SQL.
            params: Values for ``?`` (a sequence) or ``$name`` (a mapping).

        Returns:
            A DuckDB relation: ``.fetchall()``, ``.df()``, ``.to_arrow_table()``, ``.limit(5)`` …

        Raises:
            StoreError: The query is wrong or a file is damaged. The relation's methods raise it
                too, as DuckDB runs a query only when its rows are read.
        """
        files = self._refresh()

        def explained(error: duckdb.Error) -> StoreError:
            current = set(self._refresh())
            # Replaced files are deleted after a while, and a relation may be read later than that.
            if any(f not in current and not self.folder.exists(f.path) for f in files):
                return StoreError("the store has changed since this query was made: run it again")
            return explain(error, query, self._columns(), self.folder, files)

        try:
            cursor = self._connection.cursor()
            relation = cursor.sql(query, params=params)
        except duckdb.Error as error:
            raise explained(error) from error
        if relation is None:
            raise StoreError("the query is empty: try `select * from traces`")
        return Relation(relation, explained, cursor)

    def runs(self) -> Relation:
        """All runs, oldest first."""
        return self.sql("select * from runs order by started, run_id")

    def traces(self) -> Relation:
        """All traces, ordered by id."""
        return self.sql("select * from traces order by trace_id")

    def trace(self, trace_id: int) -> Trace:
        """Read one trace.

        Raises:
            NotInStoreError: There is no such trace.
        """
        return Trace(self, trace_id)

    def files(self, table: str, first: int = 0, last: int = 2**63 - 1) -> list[File]:
        """Committed files of a table that may hold traces ``first`` to ``last``."""
        return [
            file
            for file in self.snapshot().get(table, ())
            if file.first_trace <= last and file.last_trace >= first
        ]

    def snapshot(self) -> Mapping[str, Sequence[File]]:
        """All committed files by table, at one moment."""
        self._refresh()
        return self._by_table

    def tables(self) -> tuple[Table, ...]:
        """All tables that ringlens knows, with the types that this store needs."""
        self._refresh()
        return tuple(self._tables.values())

    def foreign_tables(self) -> tuple[Table, ...]:
        """Tables that ringlens does not know and that can be queried all the same."""
        self._refresh()
        return tuple(t for name, t in self._shown.items() if name not in self._tables)

    def is_being_written(self, run_id: str) -> bool:
        """Whether a living process is writing to a run."""
        with self._lock, store_errors(self.folder, "the manifest could not be read"):
            return self._manifest.is_being_written(run_id, self.folder.dead_writers)

    def committed(self) -> list[File]:
        """All committed files."""
        return list(self._refresh())

    def scan(self, table: str, files: Sequence[File]) -> str:
        """SQL that reads only the given files of a table."""
        paths = [self.folder.sql_path(file.path) for file in files]
        return views.scan(self._shown[table], paths, self._guard.NAME)

    def faults(self) -> list[str]:
        """Messages about committed files that are missing or have the wrong size.

        This needs no file to be opened, and is done for local stores only; `ringlens check` reads
        the files.
        """
        self._refresh()
        return list(self._faults.values())

    def require(self, query: str) -> None:
        """Verify the files that a query may read, before another process runs it.

        Raises:
            StoreError: A file is not what was committed.
        """
        by_table = self.snapshot()
        for table in sorted(tables_named(query, self._columns())):
            self._guard.verify(by_table.get(table, ()))

    def unguarded(self) -> AbstractContextManager[None]:
        """Skip verification in this thread, for a caller that checks the files itself."""
        return self._guard.paused()

    def definitions(self) -> Definitions:
        """SQL that gives another process the same tables, as of the newest commit."""
        self._refresh()
        with self._lock:
            if self._definitions is None:
                self._definitions = Definitions(
                    self._sequence,
                    tuple(self._statements(str, self._files, self._lost)),
                    tuple(file.path for file in self._files),
                    tuple(sorted({file.path.split("/")[0] for file in self._files})),
                    self._columns(),
                )
            return self._definitions

    def _columns(self) -> dict[str, Sequence[str]]:
        tables = {name: table.arrow.names for name, table in self._shown.items()}
        usage = {name: tuple(columns) for name, _, columns, _ in views_usage.VIEWS}
        return tables | usage | {"router_choices": tuple(views.ROUTER_CHOICES_COLUMNS)}

    def _refresh(self) -> list[File]:
        """Update the views to the newest commit; return the committed files."""
        with self._lock, store_errors(self.folder, "the manifest could not be read"):
            if self._manifest.sequence() != self._sequence:
                sequence, experts, files = self._manifest.snapshot()
                self.folder.note_sizes(files)
                self._check_sizes(files)
                self._make_views(experts, files)
                by_table: dict[str, list[File]] = {}
                for file in files:
                    by_table.setdefault(file.table, []).append(file)
                # Only now: if a step above fails, the next query starts over.
                self._sequence, self._files, self._by_table = sequence, files, by_table
            return self._files

    def _check_sizes(self, files: list[File]) -> None:
        """Check the sizes of files that are new or were faulty before."""
        self._guard.watch({views.without_glob(self.folder.sql_path(f.path)): f for f in files})
        if not self.folder.is_local:
            return
        good = {file.path for file in self._files} - self._faults.keys()
        checked = ((f, intact.size_fault(self.folder, f)) for f in files if f.path not in good)
        self._faults = {
            file.path: intact.message(self.folder, file, found) for file, found in checked if found
        }

    def _make_views(self, experts: int, files: list[File]) -> None:
        """Recreate all views; a table with a missing file gets none, and fails when queried."""
        self._tables = {table.name: table for table in captured.tables(experts)}
        shown = {table.name: table for table in captured.tables(MOST_EXPERTS)}
        reserved = {"router_choices", *(name for name, *_ in views_usage.VIEWS)}
        self._shown = shown | self._foreign.of(files, {*shown, *reserved})
        try:
            self._replace_views(files, lost=set())
        except duckdb.IOException:
            lost = {file.table for file in files if not self.folder.exists(file.path)}
            self._replace_views(files, lost)

    def _replace_views(self, files: list[File], lost: set[str]) -> None:
        """Replace all views in one transaction, so that no query sees a mix of two commits."""
        cursor = self._connection.cursor()
        cursor.execute("begin")
        try:
            with self._guard.paused():  # creating a view binds its query, but reads no rows
                for statement in self._statements(
                    self.folder.sql_path, files, lost, self._guard.NAME
                ):
                    cursor.execute(statement)
        except duckdb.Error:
            cursor.execute("rollback")
            raise
        cursor.execute("commit")
        self._lost, self._definitions = lost, None

    def _statements(
        self, sql_path: Callable[[str], str], files: list[File], lost: set[str], guard: str = ""
    ) -> list[str]:
        """SQL that creates all views; ``sql_path`` gives the path by which DuckDB opens a file."""
        statements = [
            f"drop view if exists {views.quote(name)}"
            if name in lost
            else views.table_view(
                table, [sql_path(f.path) for f in files if f.table == name], guard
            )
            for name, table in self._shown.items()
        ]
        left = sorted(self._foreign.names - self._shown.keys())  # their last file is gone
        statements += [f"drop view if exists {views.quote(name)}" for name in left]
        if "routing" not in lost:
            statements.append(views.ROUTER_CHOICES)
        for name, statement, _, sources in views_usage.VIEWS:
            statements.append(f"drop view if exists {name}" if lost & set(sources) else statement)
        return statements
