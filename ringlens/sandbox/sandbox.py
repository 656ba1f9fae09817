"""Untrusted SQL: read-only queries of anyone, each in a confined process.

A `Sandbox` keeps a few worker processes (`ringlens.sandbox.worker`) ready
(`ringlens.sandbox.pool`). A worker gives up files, network, programs and other processes before it
connects to DuckDB (`ringlens.sandbox.confine`), sees the store's committed files only, and is
killed when it takes too long, breaks the protocol or its query is cancelled. Where a process
cannot be confined, there is no sandbox, and no query runs.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import duckdb
import pyarrow as pa

from ringlens.errors import SandboxError, StoreError
from ringlens.sandbox import confine
from ringlens.sandbox.channel import ChannelClosedError, ChannelTimeoutError, FrameError
from ringlens.sandbox.cheaper import cheaper
from ringlens.sandbox.pool import Pool
from ringlens.sandbox.worker_process import BOOT, Reply, WorkerProcess
from ringlens.store.read.damage import Columns, explain
from ringlens.store.read.store import Definitions, Parameters, Store

_GRACE = 0.5
"""Seconds from the time limit to the kill, in which DuckDB mostly stops by itself."""

_HARMLESS = {
    None,
    "RefusedError",
    "BinderException",
    "CatalogException",
    "ConversionException",
    "IOException",
    "InvalidInputException",
    "NotImplementedException",
    "OutOfRangeException",
    "ParserException",
    "PermissionException",
    "TransactionException",
}
"""Errors after which a process is reused; others may have left it short of memory."""


@dataclass(frozen=True)
class Limits:
    """Limits of a query and of the pool.

    Attributes:
        seconds: Time until a query is stopped.
        rows: Rows of an answer; the rest is cut.
        columns: Columns of an answer; a query that gives more is refused.
        cells: Values of an answer, including those in lists, maps and structs; the rest is cut.
        bytes: Size of an answer; the rest is cut.
        memory: Bytes of memory beyond what an idle worker has; DuckDB may use half of it.
        threads: Threads of a query.
        workers: Queries at a time.
        spare: More workers to keep ready, each of about 70 MB, so that the query after a kill
            does not wait for a process to start.
        waiting: Queries that may wait for a worker; more are refused.
    """

    seconds: float = 10.0
    rows: int = 10_000
    columns: int = 1_000
    cells: int = 1_000_000
    bytes: int = 8_000_000
    memory: int = 2_000_000_000
    threads: int = 2
    workers: int = 2
    spare: int = 1
    waiting: int = 2


@dataclass(frozen=True)
class Answer:
    """The result of a query.

    Attributes:
        table: Its rows, within the limits, in types that hold them exactly: Arrow's own, or text
            where Arrow has none.
        readable: The same rows with numbers, booleans and text only: what `values.textual` says,
            and lists, maps and structs as JSON.
        cut: The limit that cut rows off: "rows", "cells" or "bytes"; None if all are there.
        seconds: How long the query took in the worker.
    """

    table: pa.Table
    readable: pa.Table
    cut: str | None
    seconds: float


@dataclass
class _Query:
    """A query that runs or waits: its process, and whether it was cancelled."""

    worker: WorkerProcess | None = None
    cancelled: bool = False


class Sandbox(AbstractContextManager["Sandbox"]):
    """Runs untrusted, read-only queries on a store. Threads may share it.

    Args:
        store: The store; each query sees its newest commit.
        limits: Limits of a query and of the pool.

    Raises:
        SandboxError: No process can be confined here; the message says why and what to do.
    """

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        if reason := confine.missing():
            raise SandboxError(f"untrusted queries cannot run safely here: {reason}")
        if not store.folder.is_local:
            raise SandboxError(
                f"untrusted queries run without a network and cannot read {store.address}: use "
                f"`ringlens sql`, or serve a copy of the store on this machine"
            )
        self.limits = limits or Limits()
        self._boot = BOOT
        self._store = store
        self._lock = threading.Lock()
        self._queries: dict[str, _Query] = {}
        self._places = threading.Semaphore(self.limits.workers + self.limits.waiting)
        self._running = threading.Semaphore(self.limits.workers)
        size = self.limits.workers + self.limits.spare
        self._pool = Pool(self._start, store.definitions(), size)

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; queries that run or wait fail."""
        self._pool.stop()
        for name in list(self._queries):
            self.cancel(name)
        self._pool.close()

    def sql(self, query: str, name: str | None = None, params: Parameters | None = None) -> Answer:
        """Run one SELECT over the store's tables and views.

        Args:
            query: SQL of DuckDB.
            name: Name under which it can be cancelled.
            params: Values for ``?`` (a sequence) or ``$name`` (a mapping): texts, numbers,
                booleans, None.

        Raises:
            StoreError: The query is wrong, refused, too long or cancelled, or too many are waiting.
            SandboxError: No worker could be started.
        """
        if not self._places.acquire(blocking=False):
            raise StoreError(
                f"{self.limits.workers} queries are running and {self.limits.waiting} are waiting: "
                f"try again when one is done"
            )
        running = _Query()
        name = name or secrets.token_hex(8)
        try:
            with self._lock:
                self._queries[name] = running
            return self._run(query, running, params)
        finally:
            with self._lock:
                self._queries.pop(name, None)
            self._places.release()

    def cancel(self, name: str) -> bool:
        """Stop a query that runs or waits; False if there is none of this name."""
        with self._lock:
            running = self._queries.get(name)
            if running is None:
                return False
            running.cancelled = True
            if running.worker is not None:
                running.worker.kill()
        return True

    def _run(self, query: str, running: _Query, params: Parameters | None) -> Answer:
        with self._running:
            return self._answered(query, running, params)

    def _answered(self, query: str, running: _Query, params: Parameters | None) -> Answer:
        self._store.require(query)  # a worker compares no checksums
        definitions = self._store.definitions()
        worker = self._pool.take(definitions)
        with self._lock:
            running.worker = None if running.cancelled else worker
        if running.worker is None:
            self._pool.give_back(worker)
            raise StoreError("the query was cancelled")
        healthy = False
        try:
            reply = worker.know(definitions)
            if reply.error is None:
                reply = worker.ask(query, time.monotonic() + self.limits.seconds + _GRACE, params)
            healthy = reply.error in _HARMLESS and not reply.worn
        except (ChannelTimeoutError, ChannelClosedError, FrameError) as error:
            raise self._failed(error, worker, running, query) from error
        finally:
            with self._lock:
                running.worker = None
            if healthy and not running.cancelled:
                self._pool.give_back(worker)
            else:
                self._pool.replace(worker)
        if reply.table is None or reply.readable is None:
            raise self._refused(reply, query, definitions.columns)
        return Answer(reply.table, reply.readable, reply.cut, reply.seconds)

    def _start(self, definitions: Definitions) -> WorkerProcess:
        """Start a worker and send it the tables, so that its first query does not wait for that."""
        settings = asdict(self.limits)
        worker = WorkerProcess(self._store.path, definitions.folders, settings, self._boot)
        try:
            worker.know(definitions)  # if it refuses them, the first query says so
        except (ChannelTimeoutError, ChannelClosedError, FrameError) as error:
            ended = worker.end()
            worker.close()
            raise SandboxError(f"the sandbox's process did not start: {ended}") from error
        return worker

    def _failed(
        self, error: Exception, worker: WorkerProcess, running: _Query, query: str
    ) -> StoreError:
        """The error of a query that got no answer."""
        if running.cancelled:
            return StoreError("the query was cancelled")
        if isinstance(error, ChannelTimeoutError):
            return StoreError(self._too_long(query))
        if isinstance(error, FrameError):
            return StoreError(f"the query's process broke the protocol and was ended: {error}")
        return StoreError(
            f"the query ended its process ({worker.end()}), most likely for lack of memory: select "
            f"fewer rows or shorter values"
        )

    def _too_long(self, query: str) -> str:
        stopped = (
            f"the query was stopped after {self.limits.seconds:g} s, the limit of this sandbox"
        )
        if view := cheaper(query):
            by = "trace, layer and phase" if view == "usage_traces" else "layer, expert and phase"
            return (
                f"{stopped}: ask `{view}` instead, which has the choices summed up by {by} (n, "
                f"weights and bias flips), or run it with `ringlens sql`"
            )
        return (
            f"{stopped}: narrow it down, for example to one trace or layer, or run it with "
            f"`ringlens sql`"
        )

    def _refused(self, reply: Reply, query: str, columns: Columns) -> StoreError:
        """The error for one that the worker reports."""
        if reply.error == "RefusedError":
            return StoreError(reply.message)
        if reply.error == "SessionError":
            return StoreError(f"the store's tables could not be opened: {reply.message}")
        if reply.error == "InterruptException":
            return StoreError(self._too_long(query))
        if reply.error in ("OutOfMemoryException", "MemoryError") or "alloc" in reply.message:
            return StoreError(
                f"the query needs more than the {self.limits.memory / 2e9:.1f} GB of memory it may "
                f"take here: select fewer rows or shorter values, or run it with `ringlens sql`"
            )
        kind = getattr(duckdb, str(reply.error), None)
        if not (isinstance(kind, type) and issubclass(kind, duckdb.Error)):
            kind = duckdb.Error
        # No files are passed: a forged message must not make this process read the whole store.
        cause = kind(reply.message)
        found = explain(cause, query, columns, self._store.folder, [])
        found.__cause__ = cause  # as where DuckDB raised it in this process
        return found
