"""A process that does jobs, seen from its parent: started, asked, ended."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from ringlens.errors import StoreError
from ringlens.store.parallel.job import Job, Written
from ringlens.store.parallel.shared_block import SharedBlock

# The packages come without their __init__, which would load DuckDB and the rest of ringlens: most
# of the time of a start. The main module of this process, which may load a model, does not come.
BOOT = """
import sys, types
connection, block, package, *sys.path = sys.argv[1:]
for name, folder in (("ringlens", package), ("ringlens.store", package + "/store")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from ringlens.store.parallel.worker import main
main(connection, block)
"""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Processes share the cores out among them; their libraries take one each."""


class WorkerProcess:
    """One process and the memory that is shared with it; used by one thread at a time.

    Raises:
        StoreError: It cannot be started.
    """

    def __init__(self) -> None:
        self._block = SharedBlock()
        ours, theirs = socket.socketpair()
        handles = (theirs.fileno(), self._block.handle)
        package = str(Path(__file__).parents[2])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOT, *map(str, handles), package, *sys.path],
                stdin=subprocess.PIPE,  # its end tells the process of the end of this one
                stdout=subprocess.DEVNULL,
                pass_fds=handles,
                start_new_session=True,  # Ctrl-C is for this process alone, which ends the others
                env=os.environ | ENVIRONMENT,
            )
        except OSError as error:
            ours.close()
            self._block.close()
            raise StoreError(
                f"an encoding process did not start ({error}): free memory or processes"
            ) from error
        finally:
            theirs.close()
        self._jobs = Connection(ours.detach())

    def ask(self, job: Job) -> list[Written]:
        """Have a job done, and wait for it.

        Raises:
            OSError: The disk is full, read-only or broken.
            StoreError: The process has ended.
        """
        request = self._block.pack(job)
        try:
            self._jobs.send_bytes(request)
            answer = pickle.loads(self._jobs.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise StoreError(self._last_words()) from error
        if isinstance(answer, BaseException):
            raise answer
        return list(answer)

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._jobs.close()
        self._block.close()

    def _last_words(self) -> str:
        code = self.process.wait()  # its end of the connection is closed: it has ended
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return (
            f"the encoding process {self.process.pid} has ended ({how}), so nothing more is "
            f"recorded: a system that is out of memory ends processes so. What was committed "
            f"before is safe; the same call goes on from there"
        )
