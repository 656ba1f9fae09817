"""Object log: the manifest of a store that no file lock protects, as numbered small objects.

``manifest/00000012.json`` holds the rows that the twelfth transaction put or dropped. It is created
only if there is none, which is the one thing that a server must do for us: of writers that want the
same number one gets it, the others undo, read it, and try the next. Every process keeps the tables
in memory and applies what is new. An entry is data, not SQL, so a stranger's store runs nothing.

Now and then a writer stores all rows as ``manifest/checkpoint-….json.gz``, and its number in
``manifest/latest.json``; whoever opens the store reads these and the entries after them. Entries
are never changed or deleted.
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

EVERY = 64
"""Entries between two checkpoints, at least: what a reader fetches beside one."""

ROWS = 1_000
"""Rows of the manifest that make a checkpoint rarer by one entry, so that it costs little."""

BATCHES = (16, 48, 128)
"""Entries fetched at a time by whoever opens a store or finds a new one; the last size again."""

ATTEMPTS = 3
"""Attempts to create an entry when the server fails without saying whether it has it."""

_written: dict[str, int] = {}
"""The newest entry that this process wrote, by address: its own readers see it at once."""


class Objects(Protocol):
    """What the log asks of a store's folder."""

    address: str

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Contents of files; None where there is none."""

    def create(self, path: str, content: bytes) -> None:
        """Make a file; FileExistsError if there is one. Of several that try one succeeds."""

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file, as a whole."""


class ObjectLog:
    """The journal of a manifest whose tables are in memory.

    Args:
        objects: Where the log lives.
        connection: The empty tables, in memory.
        fresh: Seconds for which what was read last is new enough.

    Raises:
        OSError: Wherever the server does.
        sqlite3.DatabaseError: An entry is not what a writer wrote.
    """

    def __init__(
        self, objects: Objects, connection: sqlite3.Connection, fresh: float = 0.0
    ) -> None:
        self._objects, self._connection, self._fresh = objects, connection, fresh
        self._columns = _columns(connection)
        self._number = self._checkpoint = 0
        self._looked = -math.inf
        self._load()
        for statement in _watch(connection):
            connection.execute(statement)

    def transact(self, work: Callable[[], R]) -> R:
        """Run ``work`` as one transaction, again if another writer was faster."""
        db = self._connection
        for attempt in count():
            self._apply_new()
            try:
                db.execute("begin")
                result = work()
                changes = self._changes() if db.in_transaction else []
                if changes and not self._append(changes):
                    db.execute("rollback")
                    time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))
                    continue
                if db.in_transaction:
                    db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
            if changes:
                self._count(written=True)
            return result
        raise AssertionError

    def catch_up(self) -> None:
        """Apply the entries that other processes have written."""
        old = time.monotonic() - self._looked > self._fresh
        if not self._connection.in_transaction and (
            old or _written.get(self._objects.address, 0) > self._number
        ):
            self._apply_new()

    def _append(self, changes: list[dict[str, Any]]) -> bool:
        """Write the next entry; False if another writer has."""
        path = _path(self._number + 1)
        mark = secrets.token_hex(8)
        content = json.dumps({"id": mark, "changes": changes}, ensure_ascii=False).encode()
        for attempt in range(ATTEMPTS):
            try:
                self._objects.create(path, content)
                return True
            except OSError as error:
                # Whatever went wrong, what the server has under this number decides: an answer
                # that was lost on the way makes a success look like a failure.
                (found,) = self._objects.read_many([path])
                if found is not None:
                    return bool(_parse(path, found).get("id") == mark)
                if attempt == ATTEMPTS - 1 or not _may_pass(error):
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError

    def _changes(self) -> list[dict[str, Any]]:
        """What the open transaction has changed, in order."""
        rows = self._connection.execute(
            "select name, kind, row from _changes order by rowid"
        ).fetchall()
        self._connection.execute("delete from _changes")
        return [{"table": name, kind: json.loads(row)} for name, kind, row in rows]

    def _apply_new(self) -> None:
        for number, entry in self._entries():
            with _whole(self._connection), _well_formed(_path(number)):
                for change in entry["changes"]:
                    self._apply(change)
                self._connection.execute("delete from _changes")
            assert number == self._number + 1
            self._count(written=False)
        self._looked = time.monotonic()

    def _entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All entries after the newest known one; several at a time once there is one."""
        first = self._number + 1
        opening = self._looked < 0
        for size in chain(() if opening else (1,), BATCHES, repeat(BATCHES[-1])):
            paths = [_path(number) for number in range(first, first + size)]
            for number, content in enumerate(self._objects.read_many(paths), first):
                if content is None:
                    return
                yield number, _parse(paths[number - first], content)
            first += size

    def _apply(self, change: dict[str, Any]) -> None:
        table = change["table"]
        row = change.get("put") or change["drop"]
        if not set(row) <= set(self._columns.get(table, ())):
            raise sqlite3.DatabaseError(f"malformed entry: table {table}, columns {sorted(row)}")
        if "put" in change:
            marks = ", ".join("?" * len(row))
            statement = f"insert or replace into {table} ({', '.join(row)}) values ({marks})"
        else:
            statement = f"delete from {table} where {' and '.join(f'{name} = ?' for name in row)}"
        self._connection.execute(statement, list(row.values()))

    # --- checkpoints --------------------------------------------------------------------------

    def _count(self, written: bool) -> None:
        """One more entry; where it is due, and this process wrote it, a checkpoint after it.

        When one is due follows from the log alone, so the writers need not agree.
        """
        self._number += 1
        if written:
            _written[self._objects.address] = self._number
        since = self._number - self._checkpoint
        if since == 0 or since % EVERY:
            return
        if since >= sum(self._size(table) for table in self._columns) // ROWS:
            self._checkpoint = self._number
            if written:
                with suppress(OSError):  # the transaction stands; the next one due is as good
                    self._save()

    def _size(self, table: str) -> int:
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
        # Numbers once given are not given again, even where their row is gone.
        counters = self._connection.execute("select name, seq from sqlite_sequence").fetchall()
        content = {"number": self._number, "tables": tables, "counters": dict(counters)}
        path = f"{FOLDER}/checkpoint-{self._number:08d}.json.gz"
        self._objects.write(path, gzip.compress(json.dumps(content).encode(), 1, mtime=0))
        self._objects.write(LATEST, json.dumps({"checkpoint": path}).encode())

    def _load(self) -> None:
        """Read the newest checkpoint, if there is any."""
        (latest,) = self._objects.read_many([LATEST])
        if latest is None:
            return
        with _well_formed(LATEST):
            path = str(_parse(LATEST, latest)["checkpoint"])
        (packed,) = self._objects.read_many([path])
        if packed is None:
            return  # all entries are there
        with _well_formed(path):
            found = _parse(path, gzip.decompress(packed))
        with _whole(self._connection), _well_formed(path):
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
        self._number = self._checkpoint = int(found["number"])


@contextmanager
def _whole(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the statements or none."""
    connection.execute("begin")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


@contextmanager
def _well_formed(path: str) -> Iterator[None]:
    """Turn what comes of an object that no writer wrote into one error."""
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


def _may_pass(error: OSError) -> bool:
    """Whether trying again may help: not where something is missing or forbidden."""
    return not isinstance(error, FileNotFoundError | PermissionError)


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The tables of the manifest with their columns."""
    names = connection.execute(
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
    ).fetchall()
    return {
        name: [row[1] for row in connection.execute(f"pragma table_info({name})")]
        for (name,) in names
    }


def _watch(connection: sqlite3.Connection) -> Iterator[str]:
    """SQL that makes SQLite note every row that is put or dropped."""
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
