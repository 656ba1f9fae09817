"""Where a session encodes what it records: in threads beside the model, or in other processes.

Threads share Python's lock with the thread that runs the model, which waits for it. Processes have
their own, but each takes time to start and holds 75 MB. So they are for runs in which encoding
takes longer than starting them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ringlens.config import Recorded
from ringlens.store.encode.cost import token_ns
from ringlens.store.parallel.encoding import Encoding, InThreads, default_threads, usable_cores
from ringlens.store.parallel.processes import InProcesses
from ringlens.store.schema.records import RunRecord

if TYPE_CHECKING:
    from ringlens.observe.pipeline.trace_buffer import Task

START_NS = 4e8
"""Work that is worth a process: the nanoseconds of a core that one takes to start."""

TOKEN_NS = 1e4
"""Work a token that is worth processes; below it, encoding is no part of what a model's step takes.
"""

OTHERS = 2
"""Cores that are left to the model's thread and the recording's, where there are more than two."""

MOST = 12
"""Most processes: twelve encode everything of Ring-1T faster than a node of eight GPUs reads it."""


def encoding_of(
    workers: int | None,
    record: Sequence[Recorded],
    layers: tuple[int, ...],
    run: RunRecord,
    tasks: Sequence[Task],
) -> Encoding:
    """What encodes the records of a session; to be closed.

    Args:
        workers: Number of processes; 0 for threads; None to choose.
        record: What is recorded.
        layers: Layers that this process records.
        run: The run.
        tasks: The traces that this process records.

    Raises:
        StoreError: A process cannot be started.
    """
    if workers is None:
        tokens = sum(task.limit for task in tasks if not task.finished)
        workers = chosen_workers(token_ns(record, layers, run), tokens, _cores())
    return InProcesses(workers) if workers else InThreads(default_threads())


def chosen_workers(token: float, tokens: int, cores: int) -> int:
    """Number of processes that pay for themselves; 0 if none does.

    Args:
        token: Nanoseconds of a core that encoding a token takes.
        tokens: Tokens of the run.
        cores: Cores that this process may use.
    """
    if cores < 2 or token < TOKEN_NS:
        return 0
    return min(MOST, max(1, cores - OTHERS), int(token * tokens / START_NS))


def _cores() -> int:
    """Cores of this process, where several were started on one machine to share them."""
    return usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
