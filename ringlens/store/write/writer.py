"""StoreWriter: writes traces, or parts of traces, to a store in atomic commits."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from ringlens.errors import NotInStoreError, StoreError
from ringlens.store.commit.files import CommitFiles, new_ids
from ringlens.store.commit.rewriter import Rewriter
from ringlens.store.encode import trace_rows
from ringlens.store.manifest.manifest import Commit, Start
from ringlens.store.parallel.encoding import Encoding
from ringlens.store.schema import captured
from ringlens.store.schema.records import RunRecord, TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.write.peers import ALONE, Peers
from ringlens.store.write.rows import Replacement, Rows
from ringlens.store.write.supersede import PrimaryRows, parts_of
from ringlens.store.write.transaction import Transactions
from ringlens.store.write.validate import check_run, check_trace, distinct_traces


class StoreWriter(Transactions, AbstractContextManager["StoreWriter"]):
    """Writes runs and traces to a store; any number of processes may do so at once.

    A commit is written to ``staging/``, flushed, renamed into place and then registered in one
    SQLite transaction. Readers take their list of files from there, so all traces of a commit
    become visible at that moment and none before. Leftovers of a killed writer are removed when a
    writer next opens the store.

    Several ranks may write the same traces, each with the layers that it owns. All of them then
    call the same methods in the same order, and a commit is registered once all have staged
    their files.

    A writer may be used by one thread at a time.

    Args:
        path: Folder or address of the store; created if it is missing.
        peers: The ranks that write together, including this one.
        encoding: Encodes the rows of traces, and is closed by who made it; None for threads, as
            many as the cores that the process may use, from 2 to 8.

    Attributes:
        folder: The store's folder.
        bytes_written: Bytes of all files committed by this writer and its peers.

    Raises:
        StoreError: The folder cannot be written, or holds files that are not a store's.
    """

    def __init__(
        self, path: str | Path, peers: Peers = ALONE, encoding: Encoding | None = None
    ) -> None:
        super().__init__(path, peers, encoding)
        self._shapes: dict[str, RunShape] = {}

    def __exit__(self, *error: object) -> None:
        self.close()

    def start_run(self, run: RunRecord) -> str:
        """Store the description of a run and the biases of its experts.

        Returns:
            Id of the run, unique in the store; ids sort by time.

        Raises:
            ObservationError: The run's sizes contradict each other.
            StoreError: The run could not be written.
        """
        started = datetime.now(UTC)
        shape = RunShape.of(run)

        def reserve(_: list[None]) -> Commit:
            # The random part keeps apart runs that start in the same second on other machines.
            run_id = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
            return self._manifest.reserve(run_id, self._lock.name, traces=0)

        def stage(files: CommitFiles) -> None:
            if self.peers.rank == 0:
                run_id = files.commit.run_id
                files.stage(captured.RUNS, [trace_rows.run_batch(run_id, run, started)])
                files.stage(captured.EXPERTS, [trace_rows.expert_batch(run_id, run)])

        start = Start(shape.to_json(), run.fingerprint)
        commit = self._transact(lambda: check_run(run), reserve, stage, started=start)
        assert commit is not None
        self._shapes[commit.run_id] = shape
        return commit.run_id

    def commit(self, run_id: str, traces: Sequence[TraceRecord]) -> list[int]:
        """Store traces, or the next parts of traces: all of them or none.

        Args:
            run_id: Id of the run, as `start_run` returned it here or in another process.
            traces: The traces. Several at a time give fewer and larger files. Every rank passes
                its records of the same traces in the same order.

        Returns:
            Trace ids, unique in the store.

        Raises:
            ObservationError: A trace does not have the run's shape, or does not continue where
                its stored part ends.
            NotInStoreError: The run, or a trace to continue, does not exist.
            StoreError: The traces could not be written, or another rank failed. After any
                exception, nothing of these records is in the store.
        """
        shape = self._shape(run_id)

        def check() -> list[int | None]:
            for trace in traces:
                check_trace(trace, shape)
            return distinct_traces([trace.trace_id for trace in traces])

        def reserve(ranks: list[list[int | None]]) -> Commit | None:
            # Each rank writes its own layers of a trace, so all must mean the same trace.
            for rank, ids in enumerate(ranks):
                if ids != ranks[0]:
                    raise StoreError(
                        f"rank {rank} commits the traces {ids}, rank 0 {ranks[0]}: pass records "
                        f"of the same traces in the same order"
                    )
            new = ranks[0].count(None)
            return self._manifest.reserve(run_id, self._lock.name, new) if traces else None

        def stage(files: CommitFiles) -> PrimaryRows | None:
            ids = new_ids(files.commit, traces)
            # Tokens and rows of `traces` are the same on every rank: only one may write them.
            is_primary = self.peers.rank == self.peers.primary
            tables = [
                t for t in captured.tables(shape.experts) if is_primary or t is not captured.TOKENS
            ]
            files.stage_traces(tables, ids, traces, shape)
            if not is_primary:
                return None
            return PrimaryRows(trace_rows.trace_batch(run_id, ids, traces), parts_of(traces))

        commit = self._transact(check, reserve, stage)
        return new_ids(commit, traces) if commit is not None else []

    def finish_run(self, run_id: str) -> None:
        """Mark a run as ended.

        Raises:
            NotInStoreError: The run does not exist.
            StoreError: The mark could not be written.
        """
        self._shape(run_id)
        self._transact(
            lambda: None,
            lambda _: self._manifest.reserve(run_id, self._lock.name, traces=0),
            lambda _: None,
            finished=datetime.now(UTC),
        )

    def unfinished(self, fingerprint: str) -> str | None:
        """Claim the latest unfinished run with this fingerprint that no living process writes to.

        From then on the run belongs to this writer: other processes cannot claim it before this
        writer is closed or its process ends.

        Args:
            fingerprint: Fingerprint of the `RunRecord` that started the run; "" finds no run.

        Returns:
            Id of the run; None if there is none.

        Raises:
            StoreError: The store could not be read or written.
        """
        return self._on_rank_0(
            "unfinished runs could not be looked up",
            lambda: (
                self._manifest.claim(fingerprint, self._lock.name, self.folder.dead_writers)
                if fingerprint
                else None
            ),
        )

    def interrupted(self, fingerprint: str) -> list[str]:
        """Runs whose fingerprints begin with this one and that were left unfinished.

        Args:
            fingerprint: Beginning of a fingerprint.

        Returns:
            Ids of the runs, the latest first; none that a living process writes to.

        Raises:
            StoreError: The store could not be read.
        """
        return self._on_rank_0(
            "unfinished runs could not be looked up",
            lambda: self._manifest.interrupted(fingerprint, self.folder.dead_writers),
        )

    def resume(self, run_id: str) -> None:
        """Continue a run that another process left unfinished.

        Raises:
            NotInStoreError: The run does not exist.
            StoreError: The run has ended, or another process is writing to it.
        """
        self._shape(run_id)

        def take() -> None:
            if self._manifest.is_finished(run_id):
                raise StoreError(f"run {run_id} has ended: start a new one")
            if not self._manifest.take(run_id, self._lock.name, self.folder.dead_writers):
                raise StoreError(f"another process works on run {run_id}: wait for it or stop it")

        self._on_rank_0("the run was not resumed", take)

    def owns(self, run_id: str) -> bool:
        """Take over a run, ended or not, unless another living process works on it.

        Returns:
            Whether the run now belongs to this writer: no other can take it before this one is
            closed or its process ends.

        Raises:
            StoreError: The store could not be read or written.
        """
        return self._on_rank_0(
            "the run was not taken over",
            lambda: self._manifest.take(run_id, self._lock.name, self.folder.dead_writers),
        )

    def replace_rows(
        self, run_id: str, table: str, rows: Rows, clear: Sequence[Mapping[str, object]] = ()
    ) -> None:
        """Store rows of an analysis, replacing earlier rows of the same scopes.

        All rows of a scope are replaced together: in ``steps`` and ``head_steps`` those of a
        trace, in ``probes`` those of a probe about a trace (or about the run, without a trace).

        Args:
            run_id: Run that the rows are about.
            table: "steps", "head_steps" or "probes".
            rows: The rows, as mappings or as an Arrow table; ``run_id`` and nullable columns can
                be left out. With several ranks, rank 0 passes all rows.
            clear: Further scopes whose rows are removed, for example ``{"trace_id": 3}``.

        Raises:
            ObservationError: A row does not fit the table or the run.
            NotInStoreError: The run or table does not exist, or a trace belongs to another run.
            StoreError: The rows could not be written. After any exception, the store is unchanged.
        """
        shape = self._shape(run_id)

        def check() -> Replacement:
            return Replacement.of(table, rows, clear, run_id, shape)

        def replace(ranks: list[Replacement]) -> None:
            new = ranks[0]
            new.check_traces(self.folder, self._manifest, run_id)
            if len(new.scopes):
                self.rewriter().replace(run_id, lambda files: new.stage(self._manifest, files))

        self._agreed("none of the rows was stored", check, replace)

    def rewriter(self) -> Rewriter:
        """Rewriter of committed files that uses this writer's lock. Rank 0 only."""
        return Rewriter(self.folder, self._manifest, self._lock.name)

    def _shape(self, run_id: str) -> RunShape:
        if run_id not in self._shapes:

            def look_up() -> str:
                text = self._manifest.run_shape(run_id)
                if text is None:
                    raise NotInStoreError(
                        f"there is no run {run_id} in {self.folder}: start it first"
                    )
                return text

            text = self._on_rank_0("the run could not be looked up", look_up)
            self._shapes[run_id] = RunShape.from_json(text)
        return self._shapes[run_id]
