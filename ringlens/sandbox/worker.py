"""The process that runs untrusted queries: it confines itself, then runs one SELECT at a time.

`ringlens.sandbox.sandbox` starts it. It reads requests from standard input and writes answers to
standard output: a frame of JSON and, if there are rows, a frame of Arrow IPC. Answers are never
pickled, because unpickling would let whoever takes over this process into the one that reads them.
"""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ringlens.errors import SandboxError, StoreError
from ringlens.sandbox.arrow_ipc import encode
from ringlens.sandbox.channel import Channel, ChannelClosedError, of_standard_pipes
from ringlens.sandbox.confine import Bounds, confine
from ringlens.sandbox.excerpt import Excerpt, Selection, excerpt
from ringlens.sandbox.statement import RefusedError, check
from ringlens.store.read.extent import Extent, TooLargeError

MAX_REQUEST = 1 << 28
MAX_MESSAGE = 2_000
"""Most characters of an error's message; the rest is cut, and the cut is marked."""

Check = Callable[[duckdb.DuckDBPyConnection, str], None]

# A query fetches, keeps, spills and looks up nothing outside the store.
_SETTINGS = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "allow_extension_repositories": "forbidden",
    "enable_external_file_cache": "false",  # files are replaced by others of the same name
    "temp_directory": "",
    "pin_threads": "off",
}

# DuckDB reads the memory limit of its control group, and fails where it may not.
_SYSTEM = (Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))

_STACKS = 200_000_000
"""Address space that threads reserve without using it; RLIMIT_AS counts it as memory."""


class Session:
    """A DuckDB that sees the store's tables and no other file.

    Args:
        request: ``views`` (the SQL statements that make them) and ``paths`` (the committed files).
        settings: ``memory`` in bytes, ``threads``, ``seconds``.
    """

    def __init__(self, request: dict[str, Any], settings: dict[str, Any]) -> None:
        self.connection = duckdb.connect(
            ":memory:",
            config={
                **_SETTINGS,
                "threads": str(settings["threads"]),
                "memory_limit": f"{settings['memory'] // 2}B",
                "max_execution_time": str(int(1000 * settings["seconds"])),
            },
        )
        self.connection.execute("set async_threads = 1")  # as a start setting it has no effect
        paths: list[str] = request["paths"]
        if paths:
            self.connection.execute(f"set allowed_paths = {_list(paths)}")
        self.connection.execute("set enable_external_access = false")
        for view in request["views"]:
            self.connection.execute(view)
        self.connection.execute("set lock_configuration = true")

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def excerpt(self, query: str, limits: Extent, params: Any = None) -> Excerpt:
        """Run a query with values for its parameters; the part of its result that fits the limits.

        Raises:
            RefusedError: It gives no rows, or too many columns.
            StoreError: Its values are nested too deeply.
            TooLargeError: Its first row alone does not fit.
            duckdb.Error: It failed.
        """
        cursor = self.connection.cursor()
        cursor.execute("begin transaction read only")
        try:
            relation = cursor.sql(query, params=params)
            if relation is None:
                raise RefusedError("the query gives no rows")
            if (count := len(relation.columns)) > limits.columns:
                raise RefusedError(
                    f"the query gives {count:,} columns, and {limits.columns:,} are the most: name "
                    f"those that you need"
                )
            wanted = Selection.of(relation)
            # One row above the limit shows that there are more.
            rows = relation.limit(limits.rows + 1).project(wanted.sql).to_arrow_table()
            return excerpt(rows, wanted, limits)
        finally:
            with contextlib.suppress(duckdb.Error):  # a failed query has ended the transaction
                cursor.execute("rollback")
            cursor.close()


def main(given: str, check: Check = check) -> None:
    """Confine this process, started in the store's folder; answer until the pipe is closed.

    Args:
        given: JSON: ``folders``, ``memory``, ``parent``, ``threads``, ``seconds``, ``rows``,
            ``columns``, ``cells``, ``bytes``.
        check: What a query must pass before it is run.
    """
    settings = json.loads(given)
    channel = of_standard_pipes()
    try:
        folders = [Path(folder) for folder in settings["folders"]]
        folders += [path for path in _SYSTEM if path.exists()]
        confine(Bounds(folders, settings["memory"] + _STACKS, settings["parent"]))
        # What DuckDB and Arrow load on first use is loaded by a first query: what the confinement
        # refuses then fails here, and not in a query of a user.
        session = Session({"views": [], "paths": []}, settings)
        session.excerpt("select 1 as a, 'b' as b, [1.5] as c, now() as d", Extent.of(settings))
    except (OSError, SandboxError, duckdb.Error) as error:
        _send(channel, {"error": "SandboxError", "message": str(error)})
        return
    _send(channel, {})
    idle = _peak()
    with contextlib.suppress(ChannelClosedError):
        while True:
            request = json.loads(channel.receive(MAX_REQUEST))
            if "views" in request:
                session.close()
                try:
                    session = Session(request, settings)
                except duckdb.Error as error:
                    _send(channel, {"error": "SessionError", "message": _short(str(error))})
                else:
                    _send(channel, {})
                continue
            header, body = answer(session, request["query"], settings, check, request["params"])
            worn = _peak() - idle > settings["memory"] // 4
            _send(channel, {**header, "worn": worn})
            if body is not None:
                channel.send(body)


def answer(
    session: Session, query: str, settings: dict[str, Any], check: Check, params: Any = None
) -> tuple[dict[str, Any], pa.Buffer | None]:
    """The answer to a query: a header and, if it succeeded, the rows."""
    start = time.perf_counter()
    try:
        check(session.connection, query)
        found = session.excerpt(query, Extent.of(settings), params)
        body = encode(found.table)
    except (RefusedError, StoreError, TooLargeError) as error:
        return {"error": "RefusedError", "message": _short(str(error))}, None
    except (duckdb.Error, pa.ArrowException, MemoryError, ValueError, RuntimeError) as error:
        return {"error": type(error).__name__, "message": _short(str(error))}, None
    taken = time.perf_counter() - start
    return {"cut": found.cut, "shown": list(found.shown), "seconds": taken}, body


def _short(message: str) -> str:
    """A message, cut if it is too long: it may hold values of the query."""
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[:MAX_MESSAGE]}… ({len(message):,} characters)"


def _peak() -> int:
    """Peak memory of this process in bytes; allocators seldom return all of it."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _send(channel: Channel, header: dict[str, Any]) -> None:
    channel.send(json.dumps(header).encode())


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
