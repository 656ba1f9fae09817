"""A worker of the sandbox, seen from its parent: started, asked, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa

from ringlens.errors import SandboxError
from ringlens.sandbox.arrow_ipc import decode, shown
from ringlens.sandbox.channel import (
    ChannelClosedError,
    ChannelTimeoutError,
    FrameError,
    of_process,
)
from ringlens.store.read.extent import Extent
from ringlens.store.read.store import Definitions, Parameters

_START = 60.0
"""Seconds that a worker may take to start; a busy machine loads its libraries slowly."""
_MAX_HEADER = 200_000
_SLACK = 4_000_000  # what Arrow IPC adds to an answer: padding, and the schema of many columns

# -I and -S: no code from the environment, the working folder or .pth files runs; sys.path is passed
# on instead. The two packages come without their __init__, which would load the rest of ringlens:
# most of the time of a start, and code that such a process has no use for.
BOOT = """
import sys, types
given, package, *sys.path = sys.argv[1:]
for name, folder in (("ringlens", package), ("ringlens.store", package + "/store")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from ringlens.sandbox.worker import main
main(given)
"""

# One thread a library: Landlock and seccomp confine the calling thread and what it starts later,
# so threads that libraries start while they are imported would stay free.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MALLOC_ARENA_MAX": "1",  # glibc reserves 64 MB of address space for each more
    "LC_ALL": "C.UTF-8",
}
_KEPT = ("LD_LIBRARY_PATH",)  # an interpreter may need it to find its own libraries


@dataclass(frozen=True)
class Reply:
    """What a worker answered. Its types are checked; its contents may be forged.

    Attributes:
        table: The rows; None where there is an error.
        readable: The same rows with numbers, booleans and text only.
        shown: Columns whose text follows after the columns.
        error: Name of the error's class.
        message: What it says.
        cut: The limit that cut rows off: "rows", "cells" or "bytes".
        seconds: How long the query took.
        worn: Whether the process has grown so much that it should not be reused.
    """

    table: pa.Table | None = None
    readable: pa.Table | None = None
    shown: list[object] = field(default_factory=list)
    error: str | None = None
    message: str = ""
    cut: str | None = None
    seconds: float = 0.0
    worn: bool = False


class WorkerProcess:
    """One worker process.

    Args:
        root: The store.
        folders: Its folders that the worker may read.
        settings: Settings of `ringlens.sandbox.worker.main`, other than folders and parent.
        boot: Python code that starts it.

    Attributes:
        folders: As given.

    Raises:
        SandboxError: It could not be confined, or did not start.
    """

    def __init__(
        self, root: Path, folders: Sequence[str], settings: dict[str, Any], boot: str = BOOT
    ) -> None:
        self.folders = tuple(folders)
        self._sequence = -1  # of the definitions that it was sent last
        limits = Extent.of(settings)
        self._limits = replace(limits, columns=2 * limits.columns)  # each may come as text as well
        given = {**settings, "folders": list(folders), "parent": os.getpid()}
        package = str(Path(__file__).parents[1])
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", boot, json.dumps(given), package, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=root,
                env={**_ENVIRONMENT, **kept},
            )
        except OSError as error:
            raise SandboxError(f"the sandbox's process did not start: {error}") from error
        self._channel = of_process(self.process)
        self._started()

    def _started(self) -> None:
        try:
            reply = self._header(time.monotonic() + _START)
        except (ChannelClosedError, ChannelTimeoutError, FrameError) as error:
            self.process.kill()
            why = self._last_words(error)
            raise SandboxError(f"the sandbox's process did not start: {why}") from error
        if reply.error is not None:
            self.close()
            raise SandboxError(f"the sandbox's process could not be confined: {reply.message}")

    def _last_words(self, error: Exception) -> str:
        assert self.process.stderr is not None
        said = self.process.stderr.read(20_000).decode(errors="replace").strip()
        return said.splitlines()[-1] if said else str(error) or type(error).__name__

    def know(self, definitions: Definitions) -> Reply:
        """Send the worker the tables, if they are new to it; this is no part of a query's time.

        Raises:
            ChannelTimeoutError: It took longer than a start may take.
            ChannelClosedError: The process has died.
            FrameError: The answer breaks the protocol.
        """
        if self._sequence == definitions.sequence:
            return Reply()
        request = {"views": definitions.views, "paths": definitions.paths}
        deadline = time.monotonic() + _START
        self._channel.send(json.dumps(request).encode(), deadline)
        reply = self._header(deadline)
        if reply.error is None:
            self._sequence = definitions.sequence
        return reply

    def ask(self, query: str, deadline: float, params: Parameters | None = None) -> Reply:
        """Send a query, with values for its parameters, and wait for its answer.

        Raises:
            ChannelTimeoutError: There was no answer in time.
            ChannelClosedError: The process has died.
            FrameError: The answer breaks the protocol.
        """
        self._channel.send(json.dumps({"query": query, "params": params}).encode(), deadline)
        reply = self._header(deadline)
        if reply.error is not None:
            return reply
        body = self._channel.receive(self._limits.bytes + _SLACK, deadline)
        table, readable = shown(decode(body, self._limits), reply.shown)
        return replace(reply, table=table, readable=readable)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def end(self) -> str:
        """How it ended, in words, after it closed its pipes."""
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "pipe closed"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the process."""
        self.process.kill()

    def close(self) -> None:
        """End the process and close its pipes."""
        self.process.kill()
        self.process.wait()
        self._channel.close()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _header(self, deadline: float) -> Reply:
        try:
            reply = Reply(**json.loads(self._channel.receive(_MAX_HEADER, deadline)))
        except (ValueError, TypeError, RecursionError) as error:
            raise FrameError(f"the header is none ({error})") from error
        for name, kinds in _TYPES.items():
            if not isinstance(getattr(reply, name), kinds):
                raise FrameError(f"the header's {name} is of another type")
        return reply


_TYPES: dict[str, tuple[type, ...]] = {
    "table": (NoneType,),
    "readable": (NoneType,),
    "shown": (list,),
    "error": (str, NoneType),
    "message": (str,),
    "cut": (str, NoneType),
    "seconds": (float,),
    "worn": (bool,),
}
