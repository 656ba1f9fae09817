"""The process that does jobs: one at a time, until its parent closes the connection or dies."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

import pyarrow as pa

from ringlens.errors import StoreError
from ringlens.store.parallel.job import Job
from ringlens.store.parallel.shared_block import SharedBlock


def main(connection: str, block: str) -> None:
    """Do jobs.

    Args:
        connection: Number of the file descriptor of a socket, over which jobs come and results go.
        block: Number of the file descriptor of the block in which the jobs' arrays lie.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    jobs, memory = Connection(int(connection)), SharedBlock(int(block))
    with suppress(EOFError, ConnectionError):  # the parent has closed its end, or is gone
        while True:
            jobs.send_bytes(_answer(memory, jobs.recv_bytes()))


def _answer(memory: SharedBlock, asked: bytes) -> bytes:
    """Do a job; what it raises is an answer as well, which the parent raises again."""
    try:
        job: Job = memory.unpack(asked)
        return pickle.dumps(job.run())
    except Exception as error:  # noqa: BLE001
        told = traceback.format_exc()
        try:
            error.add_note(f"in the encoding process {os.getpid()}:\n{told}")
            return pickle.dumps(error)
        except Exception:  # noqa: BLE001  not every exception can be pickled; this one can
            return pickle.dumps(StoreError(f"an encoding process failed:\n{told}"))


def _end_with_parent() -> None:
    """End this process at once when its parent is gone, in the midst of a job too.

    Nothing is ever written to standard input; it ends when the parent does.
    """
    os.read(0, 1)
    os._exit(1)
