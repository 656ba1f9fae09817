"""The manifest: which files of a store are committed. SQLite, safe for many processes at once.

A commit lives in two transactions. The first reserves a commit number and a range of trace ids;
the second registers the finished files. Only the second makes anything visible, so a process that
dies in between leaves a reservation without a `sequence`, which names every file it can have left.
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
from ringlens.store.manifest.known import commit_of, file_of, known_number, known_path
from ringlens.store.manifest.mounts import refuse_pipes, refuse_shared, write_ahead

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
    """The manifest of one store. Not for sharing between threads without a lock.

    Args:
        connection: A database with the tables of the manifest.
        journal: What makes the changes of this process last, and those of others visible.

    Raises:
        sqlite3.Error: Wherever SQLite does; the callers turn it into a sentence.
    """

    def __init__(self, connection: sqlite3.Connection, journal: Journal | None = None) -> None:
        self._connection = connection
        self.journal = journal or SqliteJournal(connection)
        # A reader leaves a manifest of format 1 as it is.
        known = "checksum" in _columns(connection, "files")
        self._file = _FILE if known else _FILE.replace("checksum", "null as checksum")

    @classmethod
    def create(cls, root: Path) -> Manifest:
        """Open for writing; create the file, its tables and its columns where they are missing."""
        refuse_shared(root / NAME)
        refuse_pipes(root / NAME)
        connection = _connect(f"{(root / NAME).as_uri()}?mode=rwc")
        write_ahead(connection, root / NAME)
        connection.execute("pragma synchronous = full")  # a commit survives a power cut
        connection.executescript(f"begin immediate; {_SCHEMA} commit;")
        if "checksum" not in _columns(connection, "files"):
            cls(connection)._migrate()
        return cls(connection)

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Open for reading, also on a disk that cannot be written."""
        refuse_pipes(root / NAME)
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

    @classmethod
    def in_memory(cls, journal: Callable[[sqlite3.Connection], Journal]) -> Manifest:
        """With tables in memory, which the journal fills and keeps up."""
        connection = _connect("file::memory:")
        connection.executescript(_SCHEMA)
        return cls(connection, journal(connection))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Rows as of now, with what other writers have committed."""
        self.journal.catch_up()
        return self._connection.execute(query, parameters)

    @transaction
    def _migrate(self) -> None:
        """From format 1 to 2. A ringlens of format 1 that is writing can go on."""
        if "checksum" not in _columns(self._connection, "files"):
            self._connection.execute("alter table files add column checksum text")

    @transaction
    def reserve(self, run_id: str, writer: str, traces: int) -> Commit:
        """Reserve a commit number and ``traces`` trace ids for ``writer``.

        Raises:
            StoreError: The writer was taken for dead, and a run of its own given to another.
        """
        db = self._connection
        if self._is_gone(writer):
            raise StoreError(
                "this process was silent for so long that another one took over its run: open the "
                "store again, or let the other one go on"
            )
        # Ids are given out in order of the commits: the last one has the largest.
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
        """Register the files of a commit: the commit point.

        Args:
            commit: The reservation.
            files: Its files, all on the disk.
            retire: Paths of committed files whose rows the commit's files replace.
            started: Where the commit starts its run: the run's facts.
            finished: Where the commit ends its run: when.
            dropped: Whether the commit removes its run; all files of the run are then to retire.

        Returns:
            DONE, or why nothing was registered.
        """
        db = self._connection
        changed = db.execute(
            "update commits set sequence = (select coalesce(max(sequence), 0) + 1 from commits)"
            " where commit_id = ? and writer = ? and sequence is null",
            (commit.commit_id, commit.writer),
        ).rowcount
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
        """Move committed files to those that were replaced; False where one is not committed."""
        db = self._connection
        for path in paths:
            if db.execute("delete from files where path = ?", (path,)).rowcount != 1:
                return False
        rows = [(path, now()) for path in paths]
        db.executemany("insert into retired (path, retired) values (?, ?)", rows)
        return True

    def _drop(self, run_id: str) -> bool:
        """Forget a run; False where it has files."""
        db = self._connection
        if db.execute("select 1 from files where run_id = ?", (run_id,)).fetchone():
            return False
        for table in ("runs", "owners"):
            db.execute(f"delete from {table} where run_id = ?", (run_id,))
        return True

    @transaction
    def take_over(self, commit: Commit, writer: str) -> bool:
        """Make an unfinished commit that of ``writer``, so that nobody else can complete it.

        Whoever removes the files of a commit does this first. For a writer's own commit it settles
        whether an attempt to complete it, whose answer was lost, has succeeded or never will.

        Returns:
            Whether there was such a commit.
        """
        changed = self._connection.execute(
            "update commits set writer = ? where commit_id = ? and writer = ? and sequence is null",
            (writer, commit.commit_id, commit.writer),
        ).rowcount
        return changed == 1

    @transaction
    def amend(self, files: Sequence[File]) -> None:
        """Note the facts of committed files anew; of those that are not committed, nothing."""
        self._connection.executemany(
            "update files set first_trace = ?, last_trace = ?, rows = ?, bytes = ?, checksum = ?"
            " where path = ?",
            [(f.first_trace, f.last_trace, f.rows, f.bytes, f.checksum, f.path) for f in files],
        )
        # Readers look at the files again when the last commit has another number.
        self._connection.execute(
            "update commits set sequence = sequence + 1"
            " where sequence = (select max(sequence) from commits)"
        )

    @transaction
    def forget(self, commit: Commit) -> None:
        """Drop a reservation whose files are gone."""
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
        """All runs that were started."""
        return {known_path(run_id) for (run_id,) in self._rows("select run_id from runs")}

    def run_shape(self, run_id: str) -> str | None:
        """The shape noted for a run, None if there is no such run."""
        query = "select shape from runs where run_id = ?"
        row = self._rows(query, (run_id,)).fetchone()
        return None if row is None else str(row[0])

    def files(self, table: str, run_id: str, first: int = 0, last: int = 2**63 - 1) -> list[File]:
        """The committed files of one table of one run that can hold traces first to last."""
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
        """Take over the latest unfinished run of a fingerprint whose writers are all dead.

        Args:
            fingerprint: What the run was started with.
            writer: Who takes it over.
            dead: Says which of some writers are dead.

        Returns:
            The run, of which no other process is told after this; None if there is none.
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

    def is_being_written(self, run_id: str, dead: Callable[[set[str]], set[str]]) -> bool:
        """Whether a living process works on a run."""
        self.journal.catch_up()
        return bool(self._alive(run_id, dead))

    @transaction
    def take(self, run_id: str, writer: str, dead: Callable[[set[str]], set[str]]) -> bool:
        """Make ``writer`` the owner of a run; False if another writer of it is alive."""
        if self._alive(run_id, dead) - {writer}:
            return False
        self._own(run_id, writer)
        return True

    def _alive(self, run_id: str, dead: Callable[[set[str]], set[str]]) -> set[str]:
        """The living writers of a run: its owner, and all that committed or reserved."""
        if not _columns(self._connection, "gone"):
            return set()  # of a format in which nobody writes any more
        query = f"{_WRITERS} except select writer from gone"
        writers = {writer for (writer,) in self._connection.execute(query, (run_id, run_id))}
        return writers - dead(writers)

    def _is_gone(self, writer: str) -> bool:
        query = "select 1 from gone where writer = ?"
        return self._connection.execute(query, (writer,)).fetchone() is not None

    def _own(self, run_id: str, writer: str) -> None:
        """Give a run to ``writer``; what its earlier writers may still try will fail."""
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
        """Paths of files that were replaced before a moment and may now be deleted."""
        if not _columns(self._connection, "retired"):
            return []  # the first stores had no such table
        rows = self._rows("select path from retired where retired <= ?", (before,))
        return [known_path(path) for (path,) in rows]

    @transaction
    def forget_retired(self, paths: Sequence[str]) -> None:
        """Drop the notes about replaced files that are gone."""
        db = self._connection
        db.executemany("delete from retired where path = ?", [(path,) for path in paths])

    def sequence(self) -> int:
        """How many commits are complete; grows with each."""
        query = "select coalesce(max(sequence), 0) from commits"
        return known_number(self._rows(query).fetchone()[0])

    def snapshot(self) -> tuple[int, int, list[File]]:
        """The sequence, the largest number of experts of a run, and all files at one moment."""
        db = self._connection
        self.journal.catch_up()
        db.execute("begin")  # one read transaction: the three answers belong together
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
    """Columns of a table of the manifest; none if it has no such table."""
    return {row[1] for row in connection.execute(f"pragma table_info({table})")}


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=60, isolation_level=None, check_same_thread=False
    )
