"""Workers of a sandbox: those that may run at a time, and spare ones for those that are killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ringlens.errors import SandboxError
from ringlens.sandbox.worker_process import WorkerProcess
from ringlens.store.read.store import Definitions

Start = Callable[[Definitions], WorkerProcess]
"""Starts a worker that knows the given tables; takes a moment, on a busy machine seconds."""


class Pool:
    """Workers that are ready. Any thread may take one.

    Workers are started and reaped in one thread of the pool, so nobody waits for either as long as
    a worker is ready. An idle worker takes no processor time and about 70 MB.

    Args:
        start: Starts a worker.
        definitions: The tables as they are now.
        size: How many to keep.
    """

    def __init__(self, start: Start, definitions: Definitions, size: int) -> None:
        self.size = size
        self._definitions = definitions  # the newest that a worker was asked for
        self._start = start
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []  # the one used last is the last
        self._taken = self._starting = 0
        self._failure: SandboxError | None = None
        self._closed = False
        # A worker dies with the thread that started it, so one thread starts them all.
        self._starter = ThreadPoolExecutor(1, "sandbox")
        with self._changed:
            for _ in range(size):
                self._submit(None)

    @property
    def ready(self) -> int:
        """Workers that wait for a query."""
        return len(self._idle)

    def wait_until_full(self, seconds: float) -> bool:
        """Wait until as many are ready as are to be kept; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ready == self.size, seconds)

    def take(self, definitions: Definitions) -> WorkerProcess:
        """A living worker that may read the given tables; waits until there is one.

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
        """Put a worker back that may be used again."""
        with self._changed:
            self._taken -= 1
            self._idle.append(worker)
            self._changed.notify_all()

    def replace(self, worker: WorkerProcess) -> None:
        """Kill a worker that was taken; another is started in its place."""
        worker.kill()
        with self._changed:
            self._taken -= 1
            self._submit(worker)
            self._changed.notify_all()

    def stop(self) -> None:
        """Give out no more workers; whoever waits for one hears of it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """End all workers, those that are taken once they are put back."""
        self.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
        self._starter.shutdown()
        for worker in self._idle:
            worker.close()
        self._idle.clear()

    def _replace_unfit(self) -> None:
        """Replace what the system has ended, or what was started before a table had a file."""
        for worker in list(self._idle):
            if not worker.alive or worker.folders != self._definitions.folders:
                self._idle.remove(worker)
                worker.kill()
                self._submit(worker)

    def _submit(self, worn: WorkerProcess | None) -> None:
        """Have a worker reaped, if one is given, and another one started. Called with the lock."""
        self._starting += 1
        self._starter.submit(self._renew, worn)

    def _renew(self, worn: WorkerProcess | None) -> None:
        """Run in the starting thread."""
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
                        self._submit(None)  # for one that did not start before
                self._changed.notify_all()
