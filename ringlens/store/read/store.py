"""Store: reads a folder of committed Parquet files as SQL tables and numpy arrays."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import duckdb

from ringlens.config import known_only, refuse_unknown
from ringlens.errors import StoreError
from ringlens.store.annotations.saying import find_target, retract, say
from ringlens.store.manifest.manifest import File
from ringlens.store.read import browse, intact, shown, whole_run
from ringlens.store.read.damage import explain, tables_named
from ringlens.store.read.memory import settings, spill_folder
from ringlens.store.read.relation import Relation, with_views
from ringlens.store.read.tables.foreign import ForeignTables
from ringlens.store.read.tables.view_set import ViewSet
from ringlens.store.read.token_rows import RoutingRows, TokenRows
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
F = TypeVar("F")


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
    """A store opened for reading; nothing in it is ever changed, but people can annotate it.

    Every query sees all commits that were complete when it was made (0.2 seconds before, for a
    remote store), so a running capture can be watched. Any thread may query.

    A file is compared with its checksum before a process reads it for the first time. Two cases are
    left to `ringlens check` unless ``verify`` is True: a query that may read more than 1 GiB of
    files that were not compared yet, and a remote store.

    Args:
        path: Folder or address of the store.
        verify: True to compare all files that are read, False to compare none, None to decide as
            described above or by the environment variable ``RINGLENS_VERIFY`` (1 or 0).
        memory: Memory that queries may take, such as "1GB"; what does not fit is written to a
            folder under TMPDIR meanwhile. None for what the environment variable
            ``RINGLENS_MEMORY`` says, or else four fifths of the machine's.

    Attributes:
        folder: The store's folder.
        verify: The argument, or what the environment sets.

    Raises:
        ConfigError: ``memory`` is no size.
        StoreError: There is no store, or this version cannot read it.
    """

    _open = False  # until it is opened, and after it is closed

    @refuse_unknown
    def __init__(
        self, path: str | Path, *, verify: bool | None = None, memory: str | None = None
    ) -> None:
        self.folder = folder_at(path)
        self._spill = spill_folder()
        bound = settings(memory, self._spill)
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
        self._faults: dict[str, str] = {}
        self._definitions: Definitions | None = None
        self._kept: dict[Callable[[Store], Any], tuple[int, Any]] = {}
        with store_errors(self.folder, "the store was not opened"):
            self._manifest = self.folder.open_manifest()
        self._connection = duckdb.connect(
            config={
                "python_enable_replacements": "false",  # names are tables, not Python variables
                "autoinstall_known_extensions": "false",  # reading a store needs no network
                "parquet_metadata_cache": "true",  # committed files never change
                **bound,
            }
        )
        self.folder.register_with(self._connection)
        self._connection.create_function(
            self._guard.NAME,
            self._guard,
            ["VARCHAR[]"],
            "VARCHAR[]",
        )
        self._views = ViewSet(self._connection, self.folder, self._guard)
        if not self.folder.is_local:
            self._connection.execute(f"set threads = {max(REMOTE_THREADS, os.cpu_count() or 1)}")
        self._open = True
        self._refresh()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return self._shown_by(shown.store_text)

    def _repr_html_(self) -> str:
        return self._shown_by(shown.store_html)

    def _shown_by(self, form: Callable[[Store], str]) -> str:
        """What ``form`` shows; of a store that is closed or damaged the address alone."""
        try:
            return form(self) if self._open else f"Store({self.address!r}, closed)"
        except StoreError:
            return f"Store({self.address!r})"

    def __bool__(self) -> bool:
        """True; a store without traces is a store."""
        return True

    def __len__(self) -> int:
        """Number of traces."""
        return browse.count(self)

    def __iter__(self) -> Iterator[Trace]:
        """Traces in the order of their ids."""
        return browse.traces(self)

    def __contains__(self, trace_id: object) -> bool:
        """Whether there is a trace with this id."""
        return browse.contains(self, trace_id)

    @overload
    def __getitem__(self, which: int) -> Trace: ...
    @overload
    def __getitem__(self, which: slice) -> list[Trace]: ...
    @overload
    def __getitem__(self, which: str) -> Relation: ...

    def __getitem__(self, which: int | slice | str) -> Trace | list[Trace] | Relation:
        """A trace by id, several by a slice of ids, or a table or view by name.

        Ids are no places: they may have gaps, and -1 is none.

        Raises:
            NotInStoreError: There is no such trace; a bound of the slice is no id.
            ConfigError: There is no such table.
        """
        if isinstance(which, str):
            known_only([which], self._columns(), "table")
            return self.sql(f"from {views.quote(which)}")
        return browse.between(self, which) if isinstance(which, slice) else self.trace(which)

    def _ipython_key_completions_(self) -> list[str]:
        """Names of tables and views, after ``store["``."""
        return sorted(self._columns())

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
        self._open = False
        self._manifest.close()
        self._connection.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    @refuse_unknown
    def sql(self, query: str, params: Parameters | None = None) -> Relation:
        """Query the store.

        Tables: ``runs``, ``experts``, ``traces``, ``tokens``, ``routing``, ``router_logits``,
        ``heads``, ``head_blocks``, ``steps``, ``head_steps``, ``activations``, ``attention``,
        ``probes``, ``annotations``, ``usage_traces``, ``usage_blocks``, ``usage_roles`` (see
        `ringlens.store.schema`) and the views ``router_choices`` (trace_id, layer, pos, rank from
        0, expert, weight, affinity, bias_flip), one row per chosen expert, ``expert_usage``,
        ``trace_summary``, ``token_context`` and ``current_annotations`` (see
        `ringlens.store.schema.views_usage`). Further
        instruments have their own tables, and tables of another version of ringlens appear with
        the columns of their files.

        Args:
            query: A query in DuckDB's SQL.
            params: Values for ``?`` (a sequence) or ``$name`` (a mapping).

        Returns:
            A DuckDB relation: ``.fetchall()``, ``.df()``, ``.to_arrow_table()``, ``.limit(5)`` …

        Raises:
            StoreError: The query is wrong or a file is damaged. The relation's methods raise it
                too, as DuckDB runs a query only when its rows are read.
        """
        files = self._refresh(query)

        def explained(error: duckdb.Error) -> StoreError:
            current = set(self._refresh())
            # Replaced files are deleted after a while, and a relation may be read later than that.
            if any(f not in current and not self.folder.exists(f.path) for f in files):
                return StoreError("the store has changed since this query was made: run it again")
            return explain(error, query, self._columns(), self.folder, files)

        try:
            cursor = self._connection.cursor()
            relation = with_views(partial(cursor.sql, query, params=params), self._complete)
        except duckdb.Error as error:
            raise explained(error) from error
        if relation is None:
            raise StoreError("the query is empty: try `select * from traces`")
        return Relation(relation, explained, cursor, self._complete)

    def runs(self) -> Relation:
        """All runs, oldest first."""
        return self.sql("select * from runs order by started, run_id")

    def traces(self) -> Relation:
        """All traces, ordered by id."""
        return self.sql("select * from traces order by trace_id")

    @refuse_unknown
    def trace(self, trace_id: int) -> Trace:
        """Read one trace.

        Raises:
            NotInStoreError: There is no such trace.
        """
        return Trace(self, trace_id)

    @refuse_unknown
    def annotate(
        self,
        trace_id: int | None = None,
        *,
        step: int | None = None,
        expert: tuple[int, int] | None = None,
        run_id: str | None = None,
        label: str | None = None,
        note: str | None = None,
        author: str | None = None,
        supersedes: str | None = None,
    ) -> str:
        """Say something of a trace, of one of its steps, or of an expert; kept in ``annotations``.

        Nothing that was said before is replaced: any number of processes may annotate at once.
        Once this returns, what was said is on the disk.

        Args:
            trace_id: The trace.
            step: Number of a step of the trace; None for the trace as a whole.
            expert: Layer and id of an expert, such as ``(5, 3)``, in place of a trace.
            run_id: Run whose expert it is; can be left out where all runs are of one model.
            label: Short name, such as a role of the step.
            note: Free text.
            author: Who says it; the system's user if None.
            supersedes: Id of an annotation that this one corrects, in place of what it is about.

        Returns:
            Id of the annotation.

        Raises:
            ConfigError: It is not clear what it is about, or it says nothing.
            NotInStoreError: There is no such trace, step, expert, run or annotation.
            StoreError: The store cannot be written.
        """
        target = find_target(self, trace_id, step, expert, run_id, supersedes)
        return say(self, target, label, note, author, supersedes)

    @refuse_unknown
    def retract(self, annotation_id: str, *, author: str | None = None) -> str:
        """Retract an annotation; it stays in ``annotations`` and leaves ``current_annotations``.

        Args:
            annotation_id: Id of the annotation.
            author: Who retracts it; the system's user if None.

        Returns:
            Id of the row that says so.

        Raises:
            NotInStoreError: There is no such annotation, or it was corrected or retracted.
            StoreError: The store cannot be written.
        """
        return retract(self, annotation_id, author)

    @refuse_unknown
    def annotations(self, *, history: bool = False) -> Relation:
        """What people said of traces, steps and experts, oldest first.

        Args:
            history: Also what was corrected or retracted, and the retractions: all rows of
                ``annotations`` instead of those of the view ``current_annotations``.
        """
        table = "annotations" if history else "current_annotations"
        return self.sql(f"select * from {table} order by created, annotation_id")

    @refuse_unknown
    def tokens(self, where: str | None = None, *, context: Sequence[str] = ()) -> TokenRows:
        """Read the tokens of any traces as arrays.

        Args:
            where: Which tokens: a predicate in SQL over the columns of the view ``token_context``,
                such as ``"phase = 'think' and correct"``; None for all tokens of the store.
            context: Columns of ``token_context`` to have beside, such as ``["correct"]``.

        Returns:
            ``trace_id``, ``pos``, ``phase``, ``token_id``, ``text``, ``turn``, ``logprob``,
            ``entropy`` and the context, each [N], ordered by trace and position; NaN, or None among
            texts, where it is not known.

        Raises:
            ConfigError: ``where`` is no predicate, or there is no such column.
            NotInStoreError: No token is selected.
        """
        return whole_run.tokens(self, where, context)

    @refuse_unknown
    def router_logits(
        self, layer: int, where: str | None = None, *, context: Sequence[str] = ()
    ) -> TokenRows:
        """Read the router logits of one layer for tokens of any traces.

        Args:
            layer: The layer.
            where: As for :meth:`tokens`.
            context: As for :meth:`tokens`; ``phase`` is there in any case.

        Returns:
            ``values``, float32 [N, E], with ``trace_id`` and ``pos`` [N] beside.

        Raises:
            ConfigError: As for :meth:`tokens`.
            NotInStoreError: No token is selected, or logits of the layer were not recorded.
            StoreError: The selected tokens come from models of different sizes, or rows are lost.
        """
        return whole_run.statistics(self, "router_logits", layer, where, context)

    @overload
    def routing(
        self, layer: int, where: str | None = None, *, context: Sequence[str] = ()
    ) -> RoutingRows: ...

    @overload
    def routing(
        self, layer: None = None, where: str | None = None, *, context: Sequence[str] = ()
    ) -> whole_run.Routing: ...

    @refuse_unknown
    def routing(
        self, layer: int | None = None, where: str | None = None, *, context: Sequence[str] = ()
    ) -> RoutingRows | whole_run.Routing:
        """Read the router choices of one layer for tokens of any traces.

        Args:
            layer: The layer; None for all, of which each is read when it is asked for:
                ``store.routing()[5]``.
            where: As for :meth:`tokens`.
            context: As for :meth:`tokens`; ``phase`` is there in any case.

        Returns:
            ``expert_ids`` [N, k] heaviest first; ``weights``, ``affinities`` float32 [N, k];
            ``margin``, ``group_margin``, ``entropy`` float32 [N]; ``bias_flips`` bool [N, k].
            ``values`` is the weights by expert, float32 [N, E], 0 where not chosen. For imported
            runs all but ``expert_ids`` is NaN (``bias_flips`` False), and tokens without a row are
            left out, which ``absent`` counts.

        Raises:
            ConfigError: As for :meth:`tokens`.
            NotInStoreError: No token is selected, or routing of the layer was not recorded.
            StoreError: As for :meth:`router_logits`.
        """
        if layer is None:
            return whole_run.Routing(self, where, context)
        return whole_run.routing(self, layer, where, context)

    @refuse_unknown
    def heads(
        self, layer: int, where: str | None = None, *, context: Sequence[str] = ()
    ) -> TokenRows:
        """Read statistics of the attention heads of one layer for tokens of any traces.

        Args:
            layer: The layer.
            where: As for :meth:`tokens`.
            context: As for :meth:`tokens`; ``phase`` is there in any case.

        Returns:
            ``entropy``, ``first_weight``, ``previous_weight``, ``output_norm``, float32 [N, H].

        Raises:
            ConfigError: As for :meth:`tokens`.
            NotInStoreError: No token is selected, or heads of the layer were not recorded.
            StoreError: As for :meth:`router_logits`.
        """
        return whole_run.statistics(self, "heads", layer, where, context)

    @refuse_unknown
    def statistics(
        self,
        table: str,
        layer: int | None = None,
        where: str | None = None,
        *,
        context: Sequence[str] = (),
    ) -> TokenRows:
        """Read the columns of any table with a row per token, or per layer and token.

        Args:
            table: Name of the table.
            layer: The layer; None for a table without layers.
            where: As for :meth:`tokens`.
            context: As for :meth:`tokens`; ``phase`` is there in any case.

        Returns:
            The columns of the table by name: [N], or [N, width] if a row holds a list.

        Raises:
            ConfigError: As for :meth:`tokens`; or there is no such table.
            NotInStoreError: No token is selected, or the layer was not recorded.
            StoreError: As for :meth:`router_logits`.
        """
        return whole_run.statistics(self, table, layer, where, context)

    @refuse_unknown
    def vectors(
        self,
        point: str,
        layer: int | None = None,
        where: str | None = None,
        *,
        head: int | None = None,
        context: Sequence[str] = (),
    ) -> TokenRows:
        """Read vectors that were recorded at a point of the model, for tokens of any traces.

        Args:
            point: Name of the point.
            layer: The layer; None for a point outside the layers.
            where: As for :meth:`tokens`.
            head: One head; None for all recorded heads.
            context: As for :meth:`tokens`; ``phase`` is there in any case.

        Returns:
            ``values``, float32 [N, C], or [N, H, C] for several ``heads``. Tokens at positions
            that were not recorded are left out, which ``absent`` counts.

        Raises:
            ConfigError: As for :meth:`tokens`.
            NotInStoreError: No token is selected, or a run has no such vectors for them.
            StoreError: As for :meth:`router_logits`; or heads were recorded at different positions.
        """
        return whole_run.vectors(self, point, layer, head, where, context)

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

    def require_files(self, files: Iterable[File]) -> None:
        """Check files as configured before they are read without SQL.

        Raises:
            StoreError: A file is not what was committed.
        """
        self._guard.verify(files)

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
                    tuple(self._views.statements()),
                    tuple(file.path for file in self._files),
                    tuple(sorted({file.path.split("/")[0] for file in self._files})),
                    self._columns(),
                )
            return self._definitions

    @refuse_unknown
    def once(self, function: Callable[[Store], F]) -> F:
        """Apply a function to this store, or give what it gave if there was no commit since.

        Args:
            function: Asks the store alone; what it gives is shared, and must not be changed.
        """
        self._refresh()
        # Noted before it is computed: a commit meanwhile makes the next call compute it again.
        sequence = self._sequence
        found: F
        if (kept := self._kept.get(function)) is not None and kept[0] == sequence:
            found = kept[1]
            return found
        found = function(self)
        self._kept[function] = sequence, found
        return found

    def _columns(self) -> dict[str, Sequence[str]]:
        tables = {name: table.arrow.names for name, table in self._shown.items()}
        usage = {name: tuple(columns) for name, _, columns, _ in views_usage.VIEWS}
        return tables | usage | {"router_choices": tuple(views.ROUTER_CHOICES_COLUMNS)}

    def _refresh(self, query: str | None = None) -> list[File]:
        """Look for a newer commit; return the committed files.

        Args:
            query: Views that it may read are there then, as of the newest commit.
        """
        with self._lock, store_errors(self.folder, "the manifest could not be read"):
            if self._manifest.sequence() != self._sequence:
                sequence, experts, files = self._manifest.snapshot()
                self.folder.note_sizes(files)
                self._check_sizes(files)
                by_table: dict[str, list[File]] = {}
                for file in files:
                    by_table.setdefault(file.table, []).append(file)
                self._show(experts, files, by_table)
                # Only now: if a step above fails, the next query starts over.
                self._sequence, self._files, self._by_table = sequence, files, by_table
            if query is not None:
                self._views.make_named(query)
            return self._files

    def _complete(self) -> bool:
        """Make the views that are not there yet; whether there were any."""
        with self._lock:
            return self._views.make_all()

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

    def _show(
        self, experts: int, files: list[File], by_table: Mapping[str, Sequence[File]]
    ) -> None:
        """Let queries see a commit."""
        self._tables = {table.name: table for table in captured.tables(experts)}
        shown = {table.name: table for table in captured.tables(MOST_EXPERTS)}
        self._shown = shown | self._foreign.of(files, {*shown, *views_usage.DERIVED})
        self._views.renew(self._shown, by_table)
        self._definitions = None
