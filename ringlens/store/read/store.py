"""Store: a folder of committed Parquet as SQL tables and numpy arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ringlens.errors import StoreError
from ringlens.store.manifest.manifest import File
from ringlens.store.read import intact
from ringlens.store.read.damage import explain, tables_named
from ringlens.store.read.relation import Relation
from ringlens.store.read.trace import Trace
from ringlens.store.schema import captured, views, views_usage
from ringlens.store.storage import layout
from ringlens.store.storage.failure import sentences
from ringlens.store.storage.folder import folder_at

WAITING = 8
"""Threads that read a store elsewhere, at least: they wait for the server most of the time."""

SHOWN = {table.name: table for table in captured.tables(experts=2**16)}
"""Tables as queries see them: ids of experts have one type, however few a model has."""

Parameters = Sequence[object] | Mapping[str, object]


@dataclass(frozen=True)
class Definitions:
    """The tables of a store as SQL.

    Attributes:
        sequence: Grows with each commit.
        views: Statements that make all tables and views, for a process in the store's folder.
        paths: Paths in the store of the committed files.
        folders: Folders of the store that they lie in.
        columns: Tables and views, each with its columns.
    """

    sequence: int
    views: tuple[str, ...]
    paths: tuple[str, ...]
    folders: tuple[str, ...]
    columns: Mapping[str, Sequence[str]]


class Store(AbstractContextManager["Store"]):
    """A store, opened for reading; nothing in it is ever changed.

    Every query sees all commits that were complete when it was made (at an address: 0.2 seconds
    before), so a running capture can be watched. Any thread may query.

    A file is compared with its checksum before a process reads it for the first time. Where a
    query may read more than 1 GiB of files that were not compared yet, or the store is at an
    address, that is left to `ringlens check`, unless it is asked for.

    Args:
        path: Folder or address of the store.
        verify: True: compare all files that are read; False: none. None: as above, or as the
            environment variable ``RINGLENS_VERIFY`` (1 or 0) says.

    Attributes:
        folder: Where its files live.
        verify: As given, or as the environment says.

    Raises:
        StoreError: There is no store, or one that this version cannot read.
    """

    def __init__(self, path: str | Path, *, verify: bool | None = None) -> None:
        self.folder = folder_at(path)
        self.verify = intact.wanted(verify)
        self._guard = intact.Guard(self.folder, self.verify)
        layout.read_marker(self.folder)
        self._lock = threading.Lock()
        self._sequence = -1
        self._files: list[File] = []
        self._by_table: dict[str, list[File]] = {}
        self._tables: dict[str, captured.Table] = {}
        self._lost: set[str] = set()
        self._faults: dict[str, str] = {}
        self._definitions: Definitions | None = None
        with sentences(self.folder, "the store was not opened"):
            self._manifest = self.folder.open_manifest()
        self._connection = duckdb.connect(
            config={
                "python_enable_replacements": "false",  # names are tables, not Python variables
                "autoinstall_known_extensions": "false",  # reading a store needs no network
                "parquet_metadata_cache": "true",  # committed files never change
            }
        )
        self.folder.serve(self._connection)
        self._connection.create_function(
            self._guard.NAME,
            self._guard,
            ["VARCHAR[]"],
            "VARCHAR[]",
        )
        if not self.folder.is_local:
            self._connection.execute(f"set threads = {max(WAITING, os.cpu_count() or 1)}")
        self._refresh()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.address!r})"

    @property
    def address(self) -> str:
        """What opens this store again: an absolute path or an address."""
        return self.folder.address

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """The store's folder on this machine. Raises StoreError if it is elsewhere."""
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
        bias_flip), one row a chosen expert, ``expert_usage`` and ``trace_summary`` (see
        `ringlens.store.schema.views_usage`).

        Args:
            query: SQL of DuckDB.
            params: Values for ``?`` (a sequence) or ``$name`` (a mapping).

        Returns:
            A DuckDB relation: ``.fetchall()``, ``.df()``, ``.to_arrow_table()``, ``.limit(5)`` …

        Raises:
            StoreError: The query is wrong or a file is damaged. As DuckDB runs a query when its
                rows are read, the relation's methods raise it as well.
        """
        files = self._refresh()

        def sentence(error: duckdb.Error) -> StoreError:
            current = set(self._refresh())
            if any(f not in current and not self.folder.exists(f.path) for f in files):
                return StoreError("the store has grown since this query was made: make it again")
            return explain(error, query, self._columns(), self.folder, files)

        try:
            cursor = self._connection.cursor()
            relation = cursor.sql(query, params=params)
        except duckdb.Error as error:
            raise sentence(error) from error
        if relation is None:
            raise StoreError("the query is empty: try `select * from traces`")
        return Relation(relation, sentence, cursor)

    def runs(self) -> Relation:
        """All runs, oldest first."""
        return self.sql("select * from runs order by started, run_id")

    def traces(self) -> Relation:
        """All traces in order of their ids."""
        return self.sql("select * from traces order by trace_id")

    def trace(self, trace_id: int) -> Trace:
        """One trace.

        Raises:
            NotInStoreError: There is no such trace.
        """
        return Trace(self, trace_id)

    def files(self, table: str, first: int = 0, last: int = 2**63 - 1) -> list[File]:
        """The committed files of a table that can hold traces ``first`` to ``last``."""
        return [
            file
            for file in self.snapshot().get(table, ())
            if file.first_trace <= last and file.last_trace >= first
        ]

    def snapshot(self) -> Mapping[str, Sequence[File]]:
        """All committed files by table, as they are at one moment."""
        self._refresh()
        return self._by_table

    def tables(self) -> tuple[captured.Table, ...]:
        """All tables, with the types that this store needs."""
        self._refresh()
        return tuple(self._tables.values())

    def is_being_written(self, run_id: str) -> bool:
        """Whether a living process works on a run."""
        with self._lock, sentences(self.folder, "the manifest could not be read"):
            return self._manifest.is_being_written(run_id, self.folder.dead_writers)

    def committed(self) -> list[File]:
        """All committed files."""
        return list(self._refresh())

    def scan(self, table: str, files: Sequence[File]) -> str:
        """SQL of the rows of some files of a table; no other file is opened."""
        paths = [self.folder.sql_path(file.path) for file in files]
        return views.scan(SHOWN[table], paths, self._guard.NAME)

    def faults(self) -> list[str]:
        """Committed files that are missing or not of their size, a sentence each.

        That much is seen without opening any, on this machine's disk; `ringlens check` looks into
        them.
        """
        self._refresh()
        return list(self._faults.values())

    def require(self, query: str) -> None:
        """Compare the files that a query may read, before it is run elsewhere.

        Raises:
            StoreError: A file is not what was committed.
        """
        by_table = self.snapshot()
        for table in sorted(tables_named(query, self._columns())):
            self._guard.look(by_table.get(table, ()))

    def unguarded(self) -> AbstractContextManager[None]:
        """For who compares the files: in this thread, queries do not."""
        return self._guard.asleep()

    def definitions(self) -> Definitions:
        """What another process needs to see the same tables, as of the newest commit."""
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
        tables = {name: table.arrow.names for name, table in self._tables.items()}
        people = {name: tuple(columns) for name, _, columns, _ in views_usage.VIEWS}
        return tables | people | {"router_choices": tuple(views.ROUTER_CHOICES_COLUMNS)}

    def _refresh(self) -> list[File]:
        """Bring the views up to the newest commit; return the committed files."""
        with self._lock, sentences(self.folder, "the manifest could not be read"):
            if self._manifest.sequence() != self._sequence:
                sequence, experts, files = self._manifest.snapshot()
                self.folder.know(files)
                self._look(files)
                self._make_views(experts, files)
                by_table: dict[str, list[File]] = {}
                for file in files:
                    by_table.setdefault(file.table, []).append(file)
                self._sequence, self._files, self._by_table = sequence, files, by_table
            return self._files

    def _look(self, files: list[File]) -> None:
        """Note what a look at the folder shows: of files that are new, or were at fault before."""
        self._guard.know({views.without_glob(self.folder.sql_path(f.path)): f for f in files})
        if not self.folder.is_local:
            return
        before = {file.path for file in self._files} - self._faults.keys()
        looked = ((f, intact.size_fault(self.folder, f)) for f in files if f.path not in before)
        self._faults = {
            file.path: intact.sentence(self.folder, file, found) for file, found in looked if found
        }

    def _make_views(self, experts: int, files: list[File]) -> None:
        """Make all views anew; a table with a missing file gets none, and says so when used."""
        self._tables = {table.name: table for table in captured.tables(experts)}
        try:
            self._replace_views(files, lost=set())
        except duckdb.IOException:
            lost = {file.table for file in files if not self.folder.exists(file.path)}
            self._replace_views(files, lost)

    def _replace_views(self, files: list[File], lost: set[str]) -> None:
        """All or none: no query sees the tables of two different moments."""
        cursor = self._connection.cursor()
        cursor.execute("begin")
        try:
            with self._guard.asleep():
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
        self, place: Callable[[str], str], files: list[File], lost: set[str], guard: str = ""
    ) -> list[str]:
        """SQL that makes all views; ``place`` says how DuckDB opens a file of the store."""
        statements = [
            f"drop view if exists {name}"
            if name in lost
            else views.table_view(table, [place(f.path) for f in files if f.table == name], guard)
            for name, table in SHOWN.items()
        ]
        if "routing" not in lost:
            statements.append(views.ROUTER_CHOICES)
        for name, statement, _, sources in views_usage.VIEWS:
            statements.append(f"drop view if exists {name}" if lost & set(sources) else statement)
        return statements
