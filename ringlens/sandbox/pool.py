"""Workers of a sandbox: as many as may run at a time, and spare ones in place of killed ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ringlens.errors import SandboxError
from ringlens.sandbox.worker_process import WorkerProcess
from ringlens.store.read.store import Definitions

Start = Callable[[Definitions], WorkerProcess]
"""Starts a worker that knows the given tables; on a busy machine this takes seconds."""


class Pool:
    """Workers that are ready, for any thread to take.

    One thread of the pool starts and reaps workers, so nobody waits for that while one is ready. An
    idle worker takes no processor time and about 70 MB.

    Args:
        start: Starts a worker.
        definitions: The tables as they are now.
        size: How many workers to keep.
    """

    def __init__(self, start: Start, definitions: Definitions, size: int) -> None:
        self.size = size
        self._definitions = definitions  # those of the last call of `take`
        self._start = start
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []  # most recently used last
        self._taken = self._starting = 0
        self._failure: SandboxError | None = None
        self._closed = False
        # A worker dies with the thread that started it (PR_SET_PDEATHSIG), so one thread, which
        # lives as long as the pool, starts them all.
        self._starter = ThreadPoolExecutor(1, "sandbox")
        with self._changed:
            for _ in range(size):
                self._submit(None)

    @property
    def ready(self) -> int:
        """How many workers wait for a query."""
        return len(self._idle)

    def wait_until_full(self, seconds: float) -> bool:
        """Wait until all workers are ready; False if they are not by then."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ready == self.size, seconds)

    def take(self, definitions: Definitions) -> WorkerProcess:
        """Take a living worker that may read the given tables; wait until there is one.

        Raises:
            SandboxError: None could be started, or the pool is closed.
        """
        tried = False
        with self._changed:
            self._definitions = definitions
            while True:
                if self._closed:
                    raise SandboxError("the sandbox is closed")
                self._replace_unfit()
                if self._idle:
                    self._taken += 1
                    return self._idle.pop()
                if not self._starting:
                    if tried and self._failure is not None:
                        raise SandboxError(str(self._failure)) from self._failure
                    tried = True
                    self._submit(None)
                self._changed.wait()

    def give_back(self, worker: WorkerProcess) -> None:
        """Put back a worker that may be reused."""
        with self._changed:
            self._taken -= 1
            self._idle.append(worker)
            self._changed.notify_all()

    def replace(self, worker: WorkerProcess) -> None:
        """Kill a worker that was taken, and start another in its place."""
        worker.kill()
        with self._changed:
            self._taken -= 1
            self._submit(worker)
            self._changed.notify_all()

    def stop(self) -> None:
        """Give out no more workers; those who wait for one get an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """End all workers; wait for those that are taken to be put back."""
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
        self._starter.shutdown()
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def _replace_unfit(self) -> None:
        """Replace workers that the system has ended, or whose folders are out of date.

        Landlock fixed the folders at the start: a table's first file makes a folder that they lack.
        """
        for worker in list(self._idle):
            if not worker.alive or worker.folders != self._definitions.folders:
                self._idle.remove(worker)
                worker.kill()
                self._submit(worker)

    def _submit(self, worn: WorkerProcess | None) -> None:
        """Have a worker reaped, if one is given, and another started. The caller holds the lock."""
        self._starting += 1
        self._starter.submit(self._renew, worn)

    def _renew(self, worn: WorkerProcess | None) -> None:
        """Reap a worker and start another, in the pool's thread."""
        worker: WorkerProcess | None = None
        failure: SandboxError | None = SandboxError("the sandbox's process did not start")
        try:
            if worn is not None:
                worn.close()
            worker = None if self._closed else self._start(self._definitions)
            failure = None
        except SandboxError as error:
            failure = error
        finally:
            with self._changed:
                self._starting -= 1
                self._failure = failure
                if worker is not None:
                    self._idle.insert(0, worker)
                    if len(self._idle) + self._taken + self._starting < self.size:
                        self._submit(None)  # in place of one that did not start earlier
                self._changed.notify_all()
