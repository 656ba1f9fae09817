"""The manifest: which files of a store are committed. SQLite, safe for many processes at once.

A commit lives in two transactions. The first reserves a commit number and a range of trace ids;
the second registers the finished files. Only the second makes anything visible, so a process that
dies in between leaves a reservation without a `sequence`, which names every file it can have left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

NAME = "manifest.sqlite"

_FILE = "path, table_name, run_id, first_trace, last_trace, rows, bytes"

_SCHEMA = """
create table if not exists runs (
    run_id text primary key, shape text not null, started text not null, finished text);
create table if not exists commits (
    commit_id integer primary key autoincrement, run_id text not null, writer text not null,
    first_trace integer not null, traces integer not null, started text not null,
    sequence integer unique);
create table if not exists files (
    path text primary key, table_name text not null, run_id text not null,
    commit_id integer not null, first_trace integer not null, last_trace integer not null,
    rows integer not null, bytes integer not null);
create index if not exists files_by_trace on files (table_name, first_trace, last_trace);
"""


@dataclass(frozen=True)
class File:
    """One committed file.

    Attributes:
        path: Path in the store, with forward slashes.
        table: Table it belongs to.
        run_id: Run whose rows it holds.
        first_trace: Smallest trace id in it; 0 where the table has no traces.
        last_trace: Largest trace id in it.
        rows: Rows.
        bytes: Size.
    """

    path: str
    table: str
    run_id: str
    first_trace: int
    last_trace: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Commit:
    """A reservation: its number and the trace ids ``first_trace … first_trace + traces - 1``."""

    commit_id: int
    run_id: str
    writer: str
    first_trace: int
    traces: int

    @property
    def last_trace(self) -> int:
        """The last reserved trace id."""
        return self.first_trace + self.traces - 1


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Manifest:
    """The manifest of one store. Not for sharing between threads without a lock.

    Raises:
        sqlite3.Error: Wherever SQLite does; the callers turn it into a sentence.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def create(cls, root: Path) -> Manifest:
        """Open for writing; create the file and its tables where they are missing."""
        connection = _connect(f"{(root / NAME).as_uri()}?mode=rwc")
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")  # a commit survives a power cut
        connection.executescript(f"begin immediate; {_SCHEMA} commit;")
        return cls(connection)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Open for reading, also on a disk that cannot be written."""
        address = f"{(root / NAME).as_uri()}?mode=ro"
        connection = _connect(address)
        try:
            connection.execute("select count(*) from commits").fetchone()
        except sqlite3.OperationalError:
            # SQLite reads a write-ahead log only where it can write next to it. Without a log
            # the file is complete in itself and may be read as immutable.
            connection.close()
            log = root / f"{NAME}-wal"
            if log.exists() and log.stat().st_size:
                raise
            connection = _connect(f"{address}&immutable=1")
            connection.execute("select count(*) from commits").fetchone()
        return cls(connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("begin immediate")
            yield self._connection
            self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise

    def reserve(self, run_id: str, writer: str, traces: int) -> Commit:
        """Reserve a commit number and ``traces`` trace ids for ``writer``."""
        with self._transaction() as db:
            (first,) = db.execute(
                "select coalesce(max(first_trace + traces), 1) from commits"
            ).fetchone()
            number = db.execute(
                "insert into commits (run_id, writer, first_trace, traces, started)"
                " values (?, ?, ?, ?, ?)",
                (run_id, writer, first, traces, now()),
            ).lastrowid
        assert number is not None
        return Commit(number, run_id, writer, first, traces)

    def complete(
        self, commit: Commit, files: list[File], started: str | None, finished: str | None
    ) -> bool:
        """Register the files of a commit: the commit point.

        Args:
            commit: The reservation.
            files: Its files, all on the disk.
            started: Where the commit starts its run: the run's shape as JSON.
            finished: Where the commit ends its run: when.

        Returns:
            False, with nothing registered, if another writer has cleared the reservation away.
        """
        with self._transaction() as db:
            changed = db.execute(
                "update commits set sequence = (select coalesce(max(sequence), 0) + 1 from commits)"
                " where commit_id = ? and sequence is null",
                (commit.commit_id,),
            ).rowcount
            if changed != 1:
                return False
            if started is not None:
                db.execute(
                    "insert into runs values (?, ?, ?, null)", (commit.run_id, started, now())
                )
            if finished is not None:
                db.execute(
                    "update runs set finished = ? where run_id = ?", (finished, commit.run_id)
                )
            db.executemany(
                f"insert or replace into files ({_FILE}, commit_id)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*astuple(file), commit.commit_id) for file in files],
            )
        return True

    def forget(self, commit: Commit) -> None:
        """Drop a reservation whose files are gone."""
        with self._transaction() as db:
            db.execute(
                "delete from commits where commit_id = ? and sequence is null", (commit.commit_id,)
            )

    def reservations(self) -> list[Commit]:
        """All commits that are not complete."""
        rows = self._connection.execute(
            "select commit_id, run_id, writer, first_trace, traces from commits"
            " where sequence is null"
        )
        return [Commit(*row) for row in rows]

    def is_complete(self, commit: Commit) -> bool:
        """Whether the commit was registered."""
        row = self._connection.execute(
            "select sequence from commits where commit_id = ?", (commit.commit_id,)
        ).fetchone()
        return row is not None and row[0] is not None

    def run_shape(self, run_id: str) -> str | None:
        """The shape noted for a run, None if there is no such run."""
        query = "select shape from runs where run_id = ?"
        row = self._connection.execute(query, (run_id,)).fetchone()
        return None if row is None else str(row[0])

    def files(self, table: str, run_id: str) -> list[File]:
        """The committed files of one table of one run."""
        rows = self._connection.execute(
            f"select {_FILE} from files where table_name = ? and run_id = ? order by path",
            (table, run_id),
        )
        return [File(*row) for row in rows]

    def sequence(self) -> int:
        """How many commits are complete; grows with each."""
        query = "select coalesce(max(sequence), 0) from commits"
        return int(self._connection.execute(query).fetchone()[0])

    def snapshot(self) -> tuple[int, int, list[File]]:
        """The sequence, the largest number of experts of a run, and all files at one moment."""
        db = self._connection
        db.execute("begin")  # one read transaction: the three answers belong together
        try:
            sequence = self.sequence()
            (experts,) = db.execute(
                "select coalesce(max(json_extract(shape, '$.experts')), 0) from runs"
            ).fetchone()
            rows = db.execute(f"select {_FILE} from files order by commit_id, path")
            return sequence, experts, [File(*row) for row in rows]
        finally:
            db.execute("commit")


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=60, isolation_level=None, check_same_thread=False
    )
