"""InProcesses: encodes in other processes, so that no thread here waits for Python's lock."""

from __future__ import annotations

from queue import SimpleQueue

from ringlens.store.parallel.job import Job, Written
from ringlens.store.parallel.worker_process import WorkerProcess


class InProcesses:
    """Processes that do jobs.

    Each has a block of shared memory, into which the thread that waits for it copies what a job
    reads. So as many jobs are in memory twice as there are processes, and no more.

    Args:
        workers: Number of processes.

    Raises:
        StoreError: A process cannot be started.
    """

    def __init__(self, workers: int) -> None:
        self._all: list[WorkerProcess] = []
        self._free: SimpleQueue[WorkerProcess] = SimpleQueue()
        try:
            for _ in range(workers):
                self._all.append(WorkerProcess())
                self._free.put(self._all[-1])
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"in {self.workers} process{'es' if self.workers > 1 else ''} beside this one"

    @property
    def workers(self) -> int:
        """Number of processes."""
        return len(self._all)

    def encode(self, job: Job) -> list[Written]:
        """Have a free process do a job, and wait for it.

        Raises:
            OSError: The disk is full, read-only or broken. Partial files may remain.
            StoreError: The process has ended.
        """
        worker = self._free.get()
        try:
            return worker.ask(job.portion())
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes."""
        while self._all:
            self._all.pop().close()
