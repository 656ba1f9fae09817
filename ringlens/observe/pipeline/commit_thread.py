"""Recording beside the model: blocks wait in a bounded queue, one thread turns them into records.

Another commits these, one commit at a time, so that the next block is worked up meanwhile. Nothing
is dropped: when the queue is full, the model waits, and the run says so once.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ringlens.observe.pipeline.block import PendingBlock
from ringlens.observe.pipeline.finite import Fault, merged, refuse, suspects
from ringlens.observe.pipeline.following import Following
from ringlens.observe.pipeline.forecast import Pace
from ringlens.observe.pipeline.trace_buffer import TraceBuffer
from ringlens.store import StoreWriter, TraceRecord
from ringlens.store.write.peers import Peers

log = logging.getLogger(__name__)

# Bytes in the queue at most, and a block in any case. A GPU's prefill makes gigabytes in seconds;
# on the CPU the blocks also hold the keys that they are worked up from.
QUEUED = {"cpu": 2**27, "cuda": 2**31}
# Bytes worked up at most before they are given to a commit.
HELD = 2**26
# Seconds that the recording thread may keep Python's lock from the model's.
SWITCH = 2e-4
# Seconds between commits within a batch at most.
EVERY = 10.0


OnStored = Callable[[StoreWriter, str, Sequence[int]], None]
"""Called with the writer, the run, and the ids of traces that are stored to their ends."""


@dataclass(frozen=True)
class _Commit:
    """A commit under way.

    Attributes:
        parts: The buffers whose parts it stores.
        done: The buffers whose traces end with it.
        tokens: Tokens taken into traces before it.
        ids: The ids of the traces of ``parts``, once it is made.
    """

    parts: list[TraceBuffer]
    done: list[TraceBuffer]
    tokens: int
    ids: Future[list[int]]


class Recording:
    """A thread that commits what a recorder hands over.

    A commit is made when a batch ends, and before that whenever ``every`` seconds have passed or
    ``HELD`` bytes are waiting: so a long trace can be watched, and memory does not grow with it.

    Args:
        writer: The store. Used by the recording alone while it runs.
        run_id: The run that the traces belong to.
        peers: The processes that record the same traces.
        every: Seconds between commits within a batch.
        device: Where the model runs.
        allow_nonfinite: Whether tokens with numbers that are none are recorded, and flagged.
        following: Who follows the traces, if anybody does.
        on_stored: Called in the thread after a commit that ends traces.

    Attributes:
        traces: Traces finished and committed.
        tokens: Tokens taken into traces.
        bytes_written: Bytes committed.
        waited: Seconds that the model has waited for the recording.
    """

    def __init__(
        self,
        writer: StoreWriter,
        run_id: str,
        peers: Peers,
        every: float = EVERY,
        device: str = "cpu",
        allow_nonfinite: bool = False,
        following: Following | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        self.on_stored = on_stored
        self.writer, self.run_id, self.peers, self.every = writer, run_id, peers, every
        self.most = QUEUED.get(device, QUEUED["cpu"])
        self.allow_nonfinite, self.following = allow_nonfinite, following
        self.traces, self.tokens = 0, 0
        self.bytes_written, self.waited = writer.bytes_written, 0.0
        self._buffers: list[TraceBuffer] = []
        self._last_commit = time.monotonic()
        self._work: deque[tuple[int, Callable[[], None]]] = deque()
        self._queued = 0
        self._changed = threading.Condition()
        self._closing, self._pace = False, Pace()
        self._error: BaseException | None = None
        self._committer = ThreadPoolExecutor(1, "ringlens-commit")
        self._commit_under_way: _Commit | None = None
        self._thread = threading.Thread(target=self._run, name="ringlens-recording", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        # The model's thread asks for Python's lock at every operation and must not wait long.
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish what is queued; after an error drop it and finish the commit under way."""
        with self._changed:
            self._closing = True
            if error is not None:
                self._work.clear()
            self._changed.notify_all()
        self._thread.join()
        self._committer.shutdown()
        sys.setswitchinterval(self._interval)
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def begin(self, buffers: Sequence[TraceBuffer]) -> None:
        """The blocks that follow belong to these traces."""
        self._put(0, lambda: self._begin(buffers))

    def put(self, block: PendingBlock) -> None:
        """Take a block; waits while too much is queued."""
        self._put(block.bytes, lambda: self._add(block))

    def end(self, finish_reason: str | None = None) -> None:
        """The batch is done: its traces end; for what reason, where it is a special one."""
        self._put(0, lambda: self._end(finish_reason))

    def _put(self, size: int, work: Callable[[], None]) -> None:
        self.check()
        with self._changed:
            if self._queued and self._queued + size > self.most:
                self._wait(size)
            self._work.append((size, work))
            self._queued += size
            self._changed.notify_all()
        self.check()

    def _wait(self, size: int) -> None:
        if not self.waited:
            log.warning(
                "recording is slower than the model: the model waits for it. Record less "
                "(record=…) or write to a faster disk to avoid this."
            )
        start = time.monotonic()
        self._changed.wait_for(
            lambda: self._error or not self._queued or self._queued + size <= self.most
        )
        self.waited += time.monotonic() - start

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._work or self._closing or self._error)
                    if not self._work:
                        break
                    size, work = self._work.popleft()
                with self._pace.working():
                    work()
                del work  # a block is large: it must not live on while the next one is awaited
                with self._changed:
                    self._queued -= size
                    self._changed.notify_all()
            self._settle()
        except BaseException as error:  # noqa: BLE001 (raised again in the model's thread)
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Drop what waits, and tell the model's thread why."""
        with self._changed:
            self._error = self._error or error
            self._work.clear()
            self._changed.notify_all()

    def _begin(self, buffers: Sequence[TraceBuffer]) -> None:
        self._buffers = list(buffers)
        if self.following is not None:
            self.following.begin(buffers)

    def _add(self, pending: PendingBlock) -> None:
        block = pending.open()
        doubtful, found = suspects(block), []
        for buffer in self._buffers:
            before = len(buffer)
            found.append(buffer.add(block, doubtful))
            self.tokens += len(buffer) - before
            if self.following is not None and len(buffer) > before:
                self.following.saw(buffer, block, before)
        self._judge(found)
        late = time.monotonic() - self._last_commit >= self.every
        held = sum(buffer.bytes for buffer in self._buffers)
        if self.peers.broadcast(late or held >= HELD):
            self._commit()

    def _judge(self, found: list[dict[int, Fault]]) -> None:
        """Refuse numbers that are none, or flag their tokens; all processes that write alike.

        Raises:
            ObservationError: There is one, and that is not allowed.
        """
        everyone = self.peers.gather(found) or [found]
        for index, faults in enumerate(self.peers.broadcast(_of_all(everyone))):
            buffer = self._buffers[index]
            if faults and not self.allow_nonfinite:
                self._settle()  # gives the trace its id, by which it is named
                refuse(min(faults.values()), buffer.trace_id, buffer.task.item, buffer.task.problem)
            buffer.flag(faults)

    def _end(self, finish_reason: str | None) -> None:
        for buffer in self._buffers:
            if not buffer.done:
                buffer.end(finish_reason)
                if self.following is not None:
                    self.following.ended(buffer)
        self._commit()

    def _commit(self) -> None:
        self._settle()
        cut = [(buffer, buffer.cut()) for buffer in self._buffers]
        parts = [(buffer, record) for buffer, record in cut if record is not None]
        done = [buffer for buffer in self._buffers if buffer.done]
        self._buffers = [buffer for buffer in self._buffers if not buffer.done]
        records = [record for _, record in parts]
        ids = self._committer.submit(self._store, records)
        ids.add_done_callback(self._committed)
        stored = [buffer for buffer, _ in parts]
        self._commit_under_way = _Commit(stored, done, self.tokens, ids)
        self._last_commit = time.monotonic()
        # Ranks send their messages in one order, and who follows a trace is told of its end.
        if self.peers.size > 1 or self.following is not None:
            self._settle()

    def _store(self, records: list[TraceRecord]) -> list[int]:
        with self._pace.working():
            return self.writer.commit(self.run_id, records)

    def _committed(self, ids: Future[list[int]]) -> None:
        """Tell the model's thread at once of a commit that failed."""
        if (error := ids.exception()) is not None:
            self._fail(error)

    def _settle(self) -> None:
        """Wait for the commit under way, and note what it has stored."""
        commit, self._commit_under_way = self._commit_under_way, None
        if commit is None:
            return
        for buffer, trace_id in zip(commit.parts, commit.ids.result(), strict=True):
            buffer.trace_id = trace_id
        self.traces += len(commit.done)
        if self.following is not None:
            for buffer in commit.done:
                self.following.stored(buffer)
        stored = [buffer.trace_id for buffer in commit.done if buffer.trace_id is not None]
        if self.on_stored is not None and stored:
            self.on_stored(self.writer, self.run_id, stored)
        self.bytes_written = self.writer.bytes_written
        if self.peers.rank == 0:
            self._pace.committed(commit.tokens)


def _of_all(everyone: list[list[dict[int, Fault]]]) -> list[dict[int, Fault]]:
    """What the processes have found of each trace, together."""
    first, *others = everyone
    for other in others:
        first = [merged(*pair) for pair in zip(first, other, strict=True)]
    return first
