"""A confined process that grades, seen from its parent: started, asked, ended.

What it computes on was written by a model, so it may be hostile: `ringlens.sandbox.confine` takes
files, network and other processes from it, its memory and time are bounded, and what it answers is
JSON of a bounded size.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ringlens.errors import SandboxError
from ringlens.sandbox import confine
from ringlens.sandbox.channel import Channel, ChannelClosedError, ChannelTimeoutError, FrameError

MEMORY = 1_000_000_000
"""Bytes that it may take beyond what it has when it is confined."""

LARGEST = 2_000_000
"""Bytes of an answer."""

_START = 300.0
"""Seconds that a start may take; a busy machine loads libraries slowly."""

# As for workers of SQL: no code but the installed packages', and of ringlens what is needed.
_BOOT = """
import sys, types
given, package, module, *sys.path = sys.argv[1:]
for name in ("", ".graders", ".sandbox"):
    sys.modules["ringlens" + name] = types.ModuleType("ringlens" + name)
    sys.modules["ringlens" + name].__path__ = [package + name.replace(".", "/")]
import importlib
importlib.import_module("ringlens.graders." + module).main(given)
"""

_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
                "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}  # fmt: skip


class ConfinedProcess:
    """One process that runs a module of `ringlens.graders` and answers JSON with JSON.

    Args:
        module: Name of the module; its ``main`` takes the settings as JSON.
        **settings: Further settings of it.

    Raises:
        SandboxError: No process can be confined here, or it did not start.
    """

    def __init__(self, module: str, **settings: Any) -> None:
        if reason := confine.missing():
            raise SandboxError(f"answers cannot be graded safely here: {reason}")
        given = json.dumps({"memory": MEMORY, "parent": os.getpid(), **settings})
        package = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, given, package, module, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_ENVIRONMENT,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        reading, writing = self.process.stdout, self.process.stdin
        self._channel = Channel(os.dup(reading.fileno()), os.dup(writing.fileno()))
        reading.close()
        writing.close()
        try:
            said = json.loads(self._channel.receive(LARGEST, time.monotonic() + _START))
        except (ChannelClosedError, ChannelTimeoutError, FrameError, ValueError) as error:
            self.close()
            raise SandboxError(
                f"the process that grades did not start ({self.end()}): {error}"
            ) from error
        if said:
            self.close()
            raise SandboxError(f"the process that grades could not be confined: {said:.300}")

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        """Send a request, and wait for the answer.

        Raises:
            ChannelTimeoutError: There was none in time.
            ChannelClosedError: The process has died.
            FrameError: The answer breaks the protocol.
        """
        deadline = time.monotonic() + seconds
        self._channel.send(json.dumps(request).encode(), deadline)
        try:
            return json.loads(self._channel.receive(LARGEST, deadline))
        except (ValueError, RecursionError) as error:
            raise FrameError(f"the answer is no JSON ({error})") from error

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def end(self) -> str:
        """How it ended: the name of a signal, or "exit"; "" where it still runs."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return ""
        return signal.Signals(-code).name if code < 0 else "exit"

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._channel.close()
