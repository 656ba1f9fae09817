"""The manifest: a SQLite database that lists the committed files of a store.

Many processes can use it at once. A commit takes two transactions: the first reserves a commit
number and a range of trace ids, the second registers the finished files. Only the second makes
anything visible. A process that dies in between leaves a reservation without a `sequence`, from
which the names of all files follow that it may have left behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

from ringlens.errors import StoreError
from ringlens.store.manifest.clock import now
from ringlens.store.manifest.entries import Commit, Completion, File, Start
from ringlens.store.manifest.journal import Journal, SqliteJournal, transaction
from ringlens.store.manifest.mounts import WAIT, refuse_pipes, refuse_shared, write_ahead
from ringlens.store.manifest.untrusted import checked_number, checked_path, commit_of, file_of

NAME = "manifest.sqlite"

_FILE = "path, table_name, run_id, first_trace, last_trace, rows, bytes, checksum"

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
    rows integer not null, bytes integer not null, checksum text);
create index if not exists files_by_trace on files (table_name, first_trace, last_trace);
create table if not exists retired (path text primary key, retired text not null);
create table if not exists owners (
    run_id text primary key, fingerprint text not null, writer text not null);
create table if not exists gone (writer text primary key);
"""

_WRITERS = (
    "select writer from owners where run_id = ? union select writer from commits where run_id = ?"
)


class Manifest:
    """The manifest of one store; threads that share it need a lock.

    Args:
        connection: A database with the tables of the manifest.
        journal: Makes the changes of this process durable, and those of others visible.

    Raises:
        sqlite3.Error: SQLite fails; callers turn it into a message.
    """

    def __init__(self, connection: sqlite3.Connection, journal: Journal | None = None) -> None:
        self._connection = connection
        self.journal = journal or SqliteJournal(connection)
        # Format 1 had no checksums. A reader may not be able to migrate, so it reads them as null.
        known = "checksum" in _columns(connection, "files")
        self._file = _FILE if known else _FILE.replace("checksum", "null as checksum")

    @classmethod
    def create(cls, root: Path) -> Manifest:
        """Open for writing; create the file and any missing tables and columns."""
        refuse_shared(root / NAME)
        refuse_pipes(root / NAME)
        connection = _connect(f"{(root / NAME).as_uri()}?mode=rwc")
        write_ahead(connection, root / NAME)
        # With a write-ahead log, "normal" would flush at checkpoints only, and a power cut could
        # undo a commit that was reported as done.
        connection.execute("pragma synchronous = full")
        connection.executescript(f"begin immediate; {_SCHEMA} commit;")
        if "checksum" not in _columns(connection, "files"):
            cls(connection)._migrate()
        return cls(connection)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Open for reading, also on a read-only disk."""
        refuse_pipes(root / NAME)
        address = f"{(root / NAME).as_uri()}?mode=ro"
        connection = _connect(address)
        try:
            connection.execute("select count(*) from commits").fetchone()
        except sqlite3.OperationalError:
            # On a read-only disk SQLite cannot create the shared memory of a write-ahead log.
            # If there is no log, the file is complete by itself and can be read as immutable. If
            # there is one, ignoring it would hide commits, so the error stands.
            connection.close()
            log = root / f"{NAME}-wal"
            if log.exists() and log.stat().st_size:
                raise
            connection = _connect(f"{address}&immutable=1")
            connection.execute("select count(*) from commits").fetchone()
        return cls(connection)

    @classmethod
    def in_memory(cls, journal: Callable[[sqlite3.Connection], Journal]) -> Manifest:
        """Create tables in memory, which the journal fills and keeps up to date."""
        connection = _connect("file::memory:")
        connection.executescript(_SCHEMA)
        return cls(connection, journal(connection))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Query the current rows, including what other writers have committed."""
        self.journal.catch_up()
        return self._connection.execute(query, parameters)

    @transaction
    def _migrate(self) -> None:
        """Migrate from format 1 to 2; a writer of format 1 can continue meanwhile."""
        # Looked at again, as another process may have migrated since the caller looked.
        if "checksum" not in _columns(self._connection, "files"):
            self._connection.execute("alter table files add column checksum text")

    @transaction
    def reserve(self, run_id: str, writer: str, traces: int) -> Commit:
        """Reserve a commit number and ``traces`` trace ids for ``writer``.

        Raises:
            StoreError: Another writer took this one for dead and took over its run.
        """
        db = self._connection
        if self._is_gone(writer):
            raise StoreError(
                "this process was silent for so long that another one took over its run: open the "
                "store again, or let the other one continue"
            )
        # Trace ids grow with commit ids, so the last commit has the largest; this reads one row,
        # where max() would scan the table.
        (first,) = db.execute(
            "select coalesce((select first_trace + traces from commits"
            " order by commit_id desc limit 1), 1)"
        ).fetchone()
        number = db.execute(
            "insert into commits (run_id, writer, first_trace, traces, started)"
            " values (?, ?, ?, ?, ?)",
            (run_id, writer, first, traces, now()),
        ).lastrowid
        assert number is not None
        return Commit(number, run_id, writer, first, traces)

    @transaction
    def complete(
        self,
        commit: Commit,
        files: Sequence[File],
        retire: Sequence[str] = (),
        started: Start | None = None,
        finished: str | None = None,
        dropped: bool = False,
    ) -> Completion:
        """Register the files of a commit, which makes them visible.

        Args:
            commit: The reservation.
            files: Files of the commit, all flushed to the disk.
            retire: Paths of committed files whose rows the commit's files replace.
            started: Facts of the run, if the commit starts it.
            finished: Time of the end of the run, if the commit ends it.
            dropped: Whether the commit removes its run; ``retire`` must then list all its files.

        Returns:
            DONE, or the reason why nothing was registered.
        """
        db = self._connection
        # Numbered in the order of completion, not of reservation: readers compare the sequence to
        # see whether anything has changed.
        changed = db.execute(
            "update commits set sequence = (select coalesce(max(sequence), 0) + 1 from commits)"
            " where commit_id = ? and writer = ? and sequence is null",
            (commit.commit_id, commit.writer),
        ).rowcount
        # No row matches once another writer has taken the reservation over or removed it.
        if changed != 1 or self._is_gone(commit.writer):
            db.execute("rollback")
            return Completion.CLEARED
        if not self._retire(retire):
            db.execute("rollback")
            return Completion.OUTDATED
        if started is not None:
            run = (commit.run_id, started.shape, now())
            db.execute("insert into runs (run_id, shape, started) values (?, ?, ?)", run)
            owner = (commit.run_id, started.fingerprint, commit.writer)
            db.execute("insert into owners (run_id, fingerprint, writer) values (?, ?, ?)", owner)
        if finished is not None:
            db.execute("update runs set finished = ? where run_id = ?", (finished, commit.run_id))
        if dropped and not self._drop(commit.run_id):
            db.execute("rollback")
            return Completion.OUTDATED
        db.executemany(
            f"insert or replace into files ({_FILE}, commit_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(*astuple(file), commit.commit_id) for file in files],
        )
        return Completion.DONE

    def _retire(self, paths: Sequence[str]) -> bool:
        """Mark committed files as replaced; False if one of them is not committed."""
        db = self._connection
        for path in paths:
            # One commit at most can delete a row. The other one worked from rows that have
            # changed, and has to start again.
            if db.execute("delete from files where path = ?", (path,)).rowcount != 1:
                return False
        rows = [(path, now()) for path in paths]
        db.executemany("insert into retired (path, retired) values (?, ?)", rows)
        return True

    def _drop(self, run_id: str) -> bool:
        """Remove a run; False if it still has files."""
        db = self._connection
        if db.execute("select 1 from files where run_id = ?", (run_id,)).fetchone():
            return False
        for table in ("runs", "owners"):
            db.execute(f"delete from {table} where run_id = ?", (run_id,))
        return True

    @transaction
    def take_over(self, commit: Commit, writer: str) -> bool:
        """Transfer an unfinished commit to ``writer``, so that no other writer can complete it.

        Call this before removing the files of a commit. On a writer's own commit it settles
        whether an attempt to complete it, whose answer was lost, succeeded or never will.

        Returns:
            Whether the commit was there and unfinished.
        """
        changed = self._connection.execute(
            "update commits set writer = ? where commit_id = ? and writer = ? and sequence is null",
            (writer, commit.commit_id, commit.writer),
        ).rowcount
        return changed == 1

    @transaction
    def amend(self, files: Sequence[File]) -> None:
        """Update what the manifest notes about committed files; ignore files it does not list."""
        self._connection.executemany(
            "update files set first_trace = ?, last_trace = ?, rows = ?, bytes = ?, checksum = ?"
            " where path = ?",
            [(f.first_trace, f.last_trace, f.rows, f.bytes, f.checksum, f.path) for f in files],
        )
        # Readers reload the list of files when the largest sequence has changed.
        self._connection.execute(
            "update commits set sequence = sequence + 1"
            " where sequence = (select max(sequence) from commits)"
        )

    @transaction
    def forget(self, commit: Commit) -> None:
        """Remove a reservation whose files are gone."""
        db = self._connection
        db.execute(
            "delete from commits where commit_id = ? and sequence is null", (commit.commit_id,)
        )

    def reservations(self) -> list[Commit]:
        """All commits that are not complete."""
        rows = self._rows(
            "select commit_id, run_id, writer, first_trace, traces from commits"
            " where sequence is null"
        )
        return [commit_of(row) for row in rows]

    def runs(self) -> set[str]:
        """Ids of all runs that were started."""
        return {checked_path(run_id) for (run_id,) in self._rows("select run_id from runs")}

    def run_shape(self, run_id: str) -> str | None:
        """Shape of a run as JSON; None if there is no such run."""
        query = "select shape from runs where run_id = ?"
        row = self._rows(query, (run_id,)).fetchone()
        return None if row is None else str(row[0])

    def files(self, table: str, run_id: str, first: int = 0, last: int = 2**63 - 1) -> list[File]:
        """Committed files of a table and run that may hold traces from first to last."""
        rows = self._rows(
            f"select {self._file} from files where table_name = ? and run_id = ?"
            " and first_trace <= ? and last_trace >= ? order by path",
            (table, run_id, last, first),
        )
        return [file_of(row) for row in rows]

    @transaction
    def claim(
        self, fingerprint: str, writer: str, dead: Callable[[set[str]], set[str]]
    ) -> str | None:
        """Take over the latest unfinished run with a fingerprint whose writers are all dead.

        Args:
            fingerprint: Identifies the settings with which the run was started.
            writer: Writer that takes the run over.
            dead: Selects the dead among some writers.

        Returns:
            The run, which no other process can claim any more; None if there is none.
        """
        db = self._connection
        runs = db.execute(
            "select run_id from runs join owners using (run_id)"
            " where fingerprint = ? and finished is null order by started desc, run_id desc",
            (fingerprint,),
        ).fetchall()
        for (run_id,) in runs:
            if not self._alive(run_id, dead):
                self._own(run_id, writer)
                return str(run_id)
        return None

    def interrupted(self, beginning: str, dead: Callable[[set[str]], set[str]]) -> list[str]:
        """Unfinished runs whose fingerprint begins so and that no living process writes to.

        Args:
            beginning: What the fingerprint begins with.
            dead: Selects the dead among some writers.

        Returns:
            Ids of the runs, the latest first.
        """
        self.journal.catch_up()
        rows = self._rows(
            "select run_id from runs join owners using (run_id)"
            " where substr(fingerprint, 1, ?) = ? and finished is null"
            " order by started desc, run_id desc",
            (len(beginning), beginning),
        )
        return [str(run_id) for (run_id,) in rows if not self._alive(run_id, dead)]

    def is_being_written(self, run_id: str, dead: Callable[[set[str]], set[str]]) -> bool:
        """Whether a living process is writing to a run."""
        self.journal.catch_up()
        return bool(self._alive(run_id, dead))

    @transaction
    def take(self, run_id: str, writer: str, dead: Callable[[set[str]], set[str]]) -> bool:
        """Make ``writer`` the owner of a run; False if another of its writers is alive."""
        if self._alive(run_id, dead) - {writer}:
            return False
        self._own(run_id, writer)
        return True

    def _alive(self, run_id: str, dead: Callable[[set[str]], set[str]]) -> set[str]:
        """Living writers of a run: its owner, and all that committed or reserved."""
        if not _columns(self._connection, "gone"):
            return set()  # an old format, to which no current writer adds
        query = f"{_WRITERS} except select writer from gone"
        writers = {writer for (writer,) in self._connection.execute(query, (run_id, run_id))}
        return writers - dead(writers)

    def _is_gone(self, writer: str) -> bool:
        query = "select 1 from gone where writer = ?"
        return self._connection.execute(query, (writer,)).fetchone() is not None

    def _own(self, run_id: str, writer: str) -> None:
        """Give a run to ``writer``; later attempts of its earlier writers fail."""
        # An earlier writer may only seem dead. Once listed as gone, it can neither reserve nor
        # complete, so two writers never add to one run.
        self._connection.execute(
            "insert or ignore into gone (writer)"
            f" select writer from ({_WRITERS}) where writer <> ?",
            (run_id, run_id, writer),
        )
        self._connection.execute(
            "insert into owners (run_id, fingerprint, writer) values (?, '', ?)"
            " on conflict (run_id) do update set writer = excluded.writer",
            (run_id, writer),
        )

    def is_finished(self, run_id: str) -> bool:
        """Whether a run has ended."""
        query = "select finished from runs where run_id = ?"
        row = self._rows(query, (run_id,)).fetchone()
        return row is not None and row[0] is not None

    def retired(self, before: str) -> list[str]:
        """Paths of files that were replaced before a time and may now be deleted."""
        if not _columns(self._connection, "retired"):
            return []  # the earliest stores lack the table
        rows = self._rows("select path from retired where retired <= ?", (before,))
        return [checked_path(path) for (path,) in rows]

    @transaction
    def forget_retired(self, paths: Sequence[str]) -> None:
        """Remove the entries of replaced files that have been deleted."""
        db = self._connection
        db.executemany("delete from retired where path = ?", [(path,) for path in paths])

    def sequence(self) -> int:
        """Number of the newest complete commit; grows with each."""
        query = "select coalesce(max(sequence), 0) from commits"
        return checked_number(self._rows(query).fetchone()[0])

    def snapshot(self) -> tuple[int, int, list[File]]:
        """Sequence, largest number of experts of any run, and all files, read consistently."""
        db = self._connection
        self.journal.catch_up()
        db.execute("begin")  # one read transaction, so that all three describe the same state
        try:
            sequence = self.sequence()
            (experts,) = db.execute(
                "select coalesce(max(json_extract(shape, '$.experts')), 0) from runs"
            ).fetchone()
            if type(experts) is not int or not 0 <= experts <= 2**16:
                raise sqlite3.DatabaseError(f"malformed shape of a run: {experts!r:.80} experts")
            rows = db.execute(f"select {self._file} from files order by commit_id, path")
            return sequence, experts, [file_of(row) for row in rows]
        finally:
            db.execute("commit")


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    """Columns of a table of the manifest; empty if there is no such table."""
    return {row[1] for row in connection.execute(f"pragma table_info({table})")}


def _connect(address: str) -> sqlite3.Connection:
    # Wait up to a minute for other writers. No isolation level: the journal issues "begin" itself.
    return sqlite3.connect(
        address, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False
    )
