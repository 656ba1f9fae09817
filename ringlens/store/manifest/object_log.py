"""Object log: keeps a manifest as small numbered objects where file locks cannot protect it.

``manifest/00000012.json`` holds the rows that the twelfth transaction put or dropped. It is created
only if it does not exist, which is the one guarantee that the server must give: of several writers
that want the same number one gets it, and the others roll back, read it, and try the next. Every
process keeps the tables in memory and applies new entries. An entry is data, not SQL, so opening an
untrusted store executes nothing.

From time to time a writer saves all rows as ``manifest/checkpoint-….json.gz`` and notes that path
in ``manifest/latest.json``. A process that opens the store loads the checkpoint and the entries
after it. Entries are never changed or deleted.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import secrets
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count, repeat
from typing import Any, Protocol, TypeVar

R = TypeVar("R")

FOLDER = "manifest"
LATEST = f"{FOLDER}/latest.json"

CHECKPOINT_EVERY = 64
"""Smallest number of entries between checkpoints, which a reader fetches one by one."""

ROWS_PER_ENTRY = 1_000
"""A checkpoint is due after one entry per this many rows, so that saving all rows stays cheap."""

FETCH_SIZES = (16, 48, 128)
"""Entries fetched per request while there are more; the last size repeats."""

ATTEMPTS = 3
"""Attempts to create an entry if the server fails without saying whether it was created."""

_written: dict[str, int] = {}
"""Newest entry that this process wrote, by address: makes its own readers see it at once."""


class Objects(Protocol):
    """The operations of a store's folder that the log needs."""

    address: str

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files; None for a file that does not exist."""

    def create(self, path: str, content: bytes) -> None:
        """Create a file; FileExistsError if it exists. Of concurrent callers one succeeds."""

    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file atomically."""


class ObjectLog:
    """Journal of a manifest whose tables are in memory.

    Args:
        objects: The store's folder.
        connection: Empty tables in memory.
        fresh: Seconds for which the last look at the log is recent enough.

    Raises:
        OSError: The server fails.
        sqlite3.DatabaseError: An entry is malformed.
    """

    def __init__(
        self, objects: Objects, connection: sqlite3.Connection, fresh: float = 0.0
    ) -> None:
        self._objects, self._connection, self._fresh = objects, connection, fresh
        self._columns = _columns(connection)
        self._newest = self._checkpoint = 0
        self._read_at = -math.inf
        self._load()
        # Only now: the rows of the checkpoint are not changes of this process.
        for statement in _change_triggers(connection):
            connection.execute(statement)

    def transact(self, work: Callable[[], R]) -> R:
        """Run ``work`` as one transaction; retry if another writer was faster."""
        db = self._connection
        for attempt in count():
            self._apply_new()
            try:
                db.execute("begin")
                result = work()
                changes = self._changes() if db.in_transaction else []
                # The entry comes first: once it exists, the transaction is committed for all
                # processes, and the commit in memory below cannot fail. If it does not, the
                # rollback leaves the tables as the log has them.
                if changes and not self._append(changes):
                    db.execute("rollback")
                    # A random wait, so that writers that collided do not collide again.
                    time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))
                    continue
                if db.in_transaction:
                    db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
            if changes:
                self._advance(written=True)
            return result
        raise AssertionError

    def catch_up(self) -> None:
        """Apply the entries that other processes have written."""
        old = time.monotonic() - self._read_at > self._fresh
        if not self._connection.in_transaction and (
            old or _written.get(self._objects.address, 0) > self._newest
        ):
            self._apply_new()

    def _append(self, changes: list[dict[str, Any]]) -> bool:
        """Create the next entry; False if another writer was faster."""
        path = _path(self._newest + 1)
        mark = secrets.token_hex(8)
        content = json.dumps({"id": mark, "changes": changes}, ensure_ascii=False).encode()
        for attempt in range(ATTEMPTS):
            try:
                self._objects.create(path, content)
                return True
            except OSError as error:
                # If the answer was lost on the way, a success looks like a failure. What the
                # server has under this number decides.
                (found,) = self._objects.read_many([path])
                if found is not None:
                    return bool(_parse(path, found).get("id") == mark)
                if attempt == ATTEMPTS - 1 or not _is_retryable(error):
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError

    def _changes(self) -> list[dict[str, Any]]:
        """Take the changes of the open transaction, in order."""
        rows = self._connection.execute(
            "select name, kind, row from _changes order by rowid"
        ).fetchall()
        self._connection.execute("delete from _changes")
        return [{"table": name, kind: json.loads(row)} for name, kind, row in rows]

    def _apply_new(self) -> None:
        for number, entry in self._entries():
            with _atomic(self._connection), _well_formed(_path(number)):
                for change in entry["changes"]:
                    self._apply(change)
                # The triggers noted these rows too, but they are already in the log.
                self._connection.execute("delete from _changes")
            assert number == self._newest + 1
            self._advance(written=False)
        self._read_at = time.monotonic()

    def _entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Entries after the newest known one, fetched in batches once there is one."""
        first = self._newest + 1
        # Usually nothing is new, so a look asks for one entry; opening a store expects many.
        opening = self._read_at < 0
        for size in chain(() if opening else (1,), FETCH_SIZES, repeat(FETCH_SIZES[-1])):
            paths = [_path(number) for number in range(first, first + size)]
            for number, content in enumerate(self._objects.read_many(paths), first):
                if content is None:
                    return
                yield number, _parse(paths[number - first], content)
            first += size

    def _apply(self, change: dict[str, Any]) -> None:
        table = change["table"]
        row = change.get("put") or change["drop"]
        # Names go into the statement as they are, so only those of known tables may.
        if not set(row) <= set(self._columns.get(table, ())):
            raise sqlite3.DatabaseError(f"malformed entry: table {table}, columns {sorted(row)}")
        if "put" in change:
            marks = ", ".join("?" * len(row))
            statement = f"insert or replace into {table} ({', '.join(row)}) values ({marks})"
        else:
            statement = f"delete from {table} where {' and '.join(f'{name} = ?' for name in row)}"
        self._connection.execute(statement, list(row.values()))

    # --- checkpoints --------------------------------------------------------------------------

    def _advance(self, written: bool) -> None:
        """Count one more entry; save a checkpoint if one is due and this process wrote the entry.

        Whether one is due follows from the log alone, so writers need not coordinate.
        """
        self._newest += 1
        if written:
            _written[self._objects.address] = self._newest
        since = self._newest - self._checkpoint
        if since == 0 or since % CHECKPOINT_EVERY:
            return
        if since >= sum(self._row_count(table) for table in self._columns) // ROWS_PER_ENTRY:
            self._checkpoint = self._newest
            if written:
                # The transaction is committed either way; the next checkpoint does as well.
                with suppress(OSError):
                    self._save()

    def _row_count(self, table: str) -> int:
        return int(self._connection.execute(f"select count(*) from {table}").fetchone()[0])

    def _save(self) -> None:
        tables = {
            name: {
                "columns": columns,
                "rows": self._connection.execute(
                    f"select {', '.join(columns)} from {name}"
                ).fetchall(),
            }
            for name, columns in self._columns.items()
        }
        # Autoincrement counters: a number is never given out twice, even if its row is gone.
        counters = self._connection.execute("select name, seq from sqlite_sequence").fetchall()
        content = {"number": self._newest, "tables": tables, "counters": dict(counters)}
        path = f"{FOLDER}/checkpoint-{self._newest:08d}.json.gz"
        # The pointer comes last, so that it never names a checkpoint that is not complete. Without
        # a time in the gzip header, writers that save the same checkpoint write the same bytes.
        self._objects.write(path, gzip.compress(json.dumps(content).encode(), 1, mtime=0))
        self._objects.write(LATEST, json.dumps({"checkpoint": path}).encode())

    def _load(self) -> None:
        """Load the newest checkpoint, if there is one."""
        (latest,) = self._objects.read_many([LATEST])
        if latest is None:
            return
        with _well_formed(LATEST):
            path = str(_parse(LATEST, latest)["checkpoint"])
        (packed,) = self._objects.read_many([path])
        if packed is None:
            return  # the entries alone hold everything
        with _well_formed(path):
            found = _parse(path, gzip.decompress(packed))
        with _atomic(self._connection), _well_formed(path):
            for name, table in found["tables"].items():
                if not set(table["columns"]) <= set(self._columns.get(name, ())):
                    raise sqlite3.DatabaseError(f"malformed checkpoint: table {name}")
                marks = ", ".join("?" * len(table["columns"]))
                columns = ", ".join(table["columns"])
                self._connection.executemany(
                    f"insert into {name} ({columns}) values ({marks})", table["rows"]
                )
            for name, number in found["counters"].items():
                self._connection.execute("delete from sqlite_sequence where name = ?", (name,))
                self._connection.execute(
                    "insert into sqlite_sequence values (?, ?)", (name, number)
                )
        self._newest = self._checkpoint = int(found["number"])


@contextmanager
def _atomic(connection: sqlite3.Connection) -> Iterator[None]:
    """Run statements as one transaction."""
    connection.execute("begin")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


@contextmanager
def _well_formed(path: str) -> Iterator[None]:
    """Turn the many errors that a malformed object can cause into one."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, zlib.error) as error:
        raise sqlite3.DatabaseError(f"malformed {path}: {error!r}") from error
    except gzip.BadGzipFile as error:
        raise sqlite3.DatabaseError(f"malformed {path}: {error}") from error


def _path(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _parse(path: str, content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise sqlite3.DatabaseError(f"malformed {path}: {error}") from error


def _is_retryable(error: OSError) -> bool:
    """Whether trying again may help: not if something is missing or forbidden."""
    return not isinstance(error, FileNotFoundError | PermissionError)


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Tables of the manifest with their columns."""
    names = connection.execute(
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
    ).fetchall()
    return {
        name: [row[1] for row in connection.execute(f"pragma table_info({name})")]
        for (name,) in names
    }


def _change_triggers(connection: sqlite3.Connection) -> Iterator[str]:
    """SQL of triggers that note every row that is put or dropped."""
    yield "create temp table _changes (name text, kind text, row text)"
    for name, columns in _columns(connection).items():
        keys = [row[1] for row in connection.execute(f"pragma table_info({name})") if row[5]]
        new = ", ".join(f"'{column}', new.{column}" for column in columns)
        old = ", ".join(f"'{key}', old.{key}" for key in keys)
        put = f"insert into _changes values ('{name}', 'put', json_object({new}));"
        drop = f"insert into _changes values ('{name}', 'drop', json_object({old}));"
        yield f"create temp trigger _put_{name} after insert on main.{name} begin {put} end"
        yield f"create temp trigger _set_{name} after update on main.{name} begin {put} end"
        yield f"create temp trigger _drop_{name} after delete on main.{name} begin {drop} end"
