"""Relation: a DuckDB relation that raises StoreError."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from ringlens.errors import StoreError
from ringlens.store.read import shown, values

T = TypeVar("T")


class Relation:
    """A DuckDB relation as `Store.sql` returns it; the query runs when its rows are read.

    It has every method of ``duckdb.DuckDBPyRelation`` (``fetchall()``, ``df()``,
    ``to_arrow_table()``, ``to_arrow_reader()``, ``fetchnumpy()``, ``pl()``, ``filter()``,
    ``limit()``, ``columns`` …). The only difference: where DuckDB would raise its own error, this
    raises a StoreError that names the damaged file, or the existing tables and columns.

    Attributes:
        relation: The wrapped DuckDB relation.
    """

    __slots__ = ("_complete", "_connection", "_explain", "relation")

    def __init__(
        self,
        relation: duckdb.DuckDBPyRelation,
        explain: Callable[[duckdb.Error], StoreError],
        connection: duckdb.DuckDBPyConnection,
        complete: Callable[[], bool],
    ) -> None:
        self.relation = relation
        self._explain = explain
        self._connection = connection
        self._complete = complete

    def exact(self) -> Relation:
        """Convert types that Arrow, JSON or Python cannot hold exactly to DuckDB's own text.

        Duplicate names become ``n`` and ``n_1``. Booleans, text, integers of up to 64 bits and
        floats stay as they are, also inside lists, maps and structs; decimals, larger integers,
        dates, times, intervals, blobs and all other types become text.

        Raises:
            StoreError: A type is nested too deeply.
        """
        relation: Relation = values.project(self, values.textual)
        return relation

    def interrupt(self) -> None:
        """Stop the query from another thread; the method that runs it raises StoreError."""
        self._connection.interrupt()

    def __getattr__(self, name: str) -> Any:
        # Special methods are looked up on the class; asking DuckDB for them would confuse copying
        # and pickling, and its way to show itself in a notebook is not ours.
        if name.startswith("_"):
            raise AttributeError(name)
        with self._errors():
            return self._guarded(getattr(self.relation, name))

    def __getitem__(self, name: str) -> Any:
        if name not in self.relation.columns:
            known = ", ".join(self.relation.columns)
            raise StoreError(f"there is no column {name}: the query gives {known}")
        with self._errors():
            return self._guarded(self.relation[name])

    def __len__(self) -> int:
        with self._errors():
            return len(self.relation)

    def __str__(self) -> str:
        """DuckDB's drawing of the rows as a table."""
        with self._errors():
            return repr(self.relation)

    def __repr__(self) -> str:
        return shown.relation_text(self)

    def _repr_html_(self) -> str:
        return shown.relation_html(self)

    def __dir__(self) -> list[str]:
        methods = (name for name in dir(self.relation) if not name.startswith("_"))
        return sorted({*object.__dir__(self), *methods, *self.relation.columns})

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.relation.columns)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        with self._errors():
            return self.relation.__arrow_c_stream__(requested_schema)

    def to_arrow_reader(self, batch_size: int = 1_000_000) -> pa.RecordBatchReader:
        """Stream the rows as Arrow batches, for results that do not fit in memory."""
        with self._errors():
            reader = self.relation.to_arrow_reader(batch_size)
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(reader))

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (OSError, pa.ArrowException) as error:  # Arrow's wrapping of an error of DuckDB
            raise self._explain(duckdb.Error(str(error))) from error

    def _guarded(self, value: Any) -> Any:
        if isinstance(value, duckdb.DuckDBPyRelation):
            return Relation(value, self._explain, self._connection, self._complete)
        if not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            with self._errors():
                given = with_views(lambda: value(*args, **options), self._complete)
                return self._guarded_result(given)

        return call

    def _guarded_result(self, value: Any) -> Any:
        if isinstance(value, duckdb.DuckDBPyRelation):
            return Relation(value, self._explain, self._connection, self._complete)
        return value

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise self._explain(error) from error


def with_views(ask: Callable[[], T], complete: Callable[[], bool]) -> T:
    """Ask DuckDB, once more if it misses a view: one may be named where nobody looked.

    Args:
        ask: Binds a query, or a part of one.
        complete: Makes the views that are not there yet, and says whether there were any.
    """
    try:
        return ask()
    except duckdb.CatalogException:
        if not complete():
            raise
        return ask()
