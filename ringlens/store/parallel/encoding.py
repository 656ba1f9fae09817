"""Encoding: does the jobs of commits, in this process or in others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from ringlens.store.parallel.job import Job, Written

MAX_WORKERS = 8
"""Most encoding threads by default; more compete for the disk and need memory for pages."""


class Encoding(Protocol):
    """Does jobs; any thread may call it. ``str(encoding)`` says where, in a message."""

    @property
    def workers(self) -> int:
        """Jobs that it does at a time."""

    def encode(self, job: Job) -> list[Written]:
        """Do a job and wait for it.

        Raises:
            OSError: The disk is full, read-only or broken. Partial files may remain.
            StoreError: The process that did it has ended.
        """

    def close(self) -> None:
        """End what was started for it."""


@dataclass(frozen=True)
class InThreads:
    """Encodes in the threads that call it: no copy of a record, but Python's lock is shared.

    Attributes:
        workers: Jobs that may be given at a time.
    """

    workers: int

    def __str__(self) -> str:
        return f"in {self.workers} threads of this process"

    def encode(self, job: Job) -> list[Written]:
        """Do a job in this thread."""
        return job.run()

    def close(self) -> None:
        """Do nothing: nothing was started."""


def usable_cores() -> int:
    """Cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # on Linux
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def default_threads() -> int:
    """Default number of encoding threads: the cores that this process may use, from 2 to 8."""
    return max(2, min(MAX_WORKERS, usable_cores()))
