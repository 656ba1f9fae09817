"""A store whose every query runs in the sandbox, for analyses of tokens that a stranger selects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from ringlens.errors import StoreError
from ringlens.sandbox.excerpt import KIND
from ringlens.sandbox.predicate import check
from ringlens.sandbox.sandbox import Limits, Sandbox
from ringlens.store.read.store import Parameters, Store

R = TypeVar("R")

PREDICATES = ("where", "a", "b", "event", "baseline")
"""Arguments of analyses that are predicates over ``token_context``."""

LIMITS = Limits(rows=1_000_000, cells=20_000_000, bytes=200_000_000)
"""What a query of an analysis may take: more rows than people look at."""

SECONDS = 30.0
"""Time of all queries of an analysis together."""


class ConfinedStore:
    """A store to which analyses of strangers' predicates are given. Threads may share it.

    Args:
        store: The store.
        sandbox: Runs the queries; one with `LIMITS`, as those of the console are too small.
    """

    def __init__(self, store: Store, sandbox: Sandbox) -> None:
        self.store = store
        self._sandbox = sandbox
        self._thread = threading.local()

    @property
    def address(self) -> str:
        """Where the store lies."""
        return self.store.address

    def ask(self, analysis: Callable[..., R], **arguments: Any) -> R:
        """Apply an analysis to tokens that a stranger selects.

        Args:
            analysis: A function from a store and named arguments, such as `analysis.contrast`.
            **arguments: Its arguments; those of `PREDICATES` are of the stranger, and checked. The
                caller chooses the others, or checks them.

        Raises:
            ConfigError: A predicate is wrong, or holds what strangers may not use.
            StoreError: Nothing is selected, or the analysis takes too long, or too many rows.
            SandboxError: No process can be confined.
        """
        self._thread.until = time.monotonic() + SECONDS
        try:
            for name in PREDICATES:
                if arguments.get(name) is not None:
                    check(self, arguments[name])
            return analysis(self, **arguments)
        finally:
            del self._thread.until

    def sql(self, query: str, params: Parameters | None = None) -> Any:
        """Run a query in the sandbox; `Rows` stand for the relation that `Store.sql` gives.

        Raises:
            StoreError: It is wrong, refused or too long, or its answer has too many rows.
        """
        if time.monotonic() > getattr(self._thread, "until", float("inf")):
            raise StoreError(
                f"the analysis was stopped after {SECONDS:g} s: select fewer tokens, or run it in "
                "Python."
            )
        answer = self._sandbox.sql(query, params=params)
        if answer.cut is not None:
            limits = self._sandbox.limits
            raise StoreError(
                f"the analysis needs more than the {limits.rows:,} rows or {limits.bytes / 1e6:g} "
                "MB that it may read here: select fewer tokens, or run it in Python."
            )
        return Rows(answer.table)


class Rows:
    """Rows of an answer, with the methods of a relation that analyses use."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def types(self) -> list[str]:
        """DuckDB's types of the columns."""
        return [field.metadata[KIND].decode().upper() for field in self._table.schema]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows."""
        return list(zip(*(column.to_pylist() for column in self._table.columns), strict=True))

    def df(self) -> pd.DataFrame:
        """All rows as a frame."""
        return self._table.to_pandas()

    def to_arrow_table(self) -> pa.Table:
        """All rows as an Arrow table."""
        return self._table.replace_schema_metadata(None)

    def to_arrow_reader(self, batch_size: int = 1_000_000) -> pa.RecordBatchReader:
        """All rows in batches."""
        return self._table.to_reader(max_chunksize=batch_size)
