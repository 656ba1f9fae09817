"""The process that holds the model, seen from the dashboard: started, told, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from ringlens.errors import RinglensError
from ringlens.sandbox.channel import (
    ChannelClosedError,
    ChannelTimeoutError,
    FrameError,
    of_process,
)

# sys.path is passed on: the process finds what this one finds, wherever it was started.
BOOT = """
import sys
given, *sys.path = sys.argv[1:]
from ringlens.live.worker import main
main(given)
"""

LARGEST = 64_000_000
"""Bytes of a message at most."""

_SEND = 10.0
"""Seconds that a message to the process may take; it always reads."""

_GRACE = 10.0
"""Seconds that the process has to commit what it holds when it is to end."""

_SECRETS = ("RINGLENS_TOKEN",)


class ModelProcess:
    """One process with a model.

    Args:
        settings: As `ringlens.live.worker.main` takes them.
        boot: Python code that starts it.

    Raises:
        RinglensError: It could not be started.
    """

    def __init__(self, settings: dict[str, Any], boot: str = BOOT) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self._open = True
        self._lock = threading.Lock()  # what is closed must not be written to
        environment = {k: v for k, v in os.environ.items() if k not in _SECRETS}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", boot, json.dumps(settings), *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
            )
        except OSError as error:
            raise RinglensError(f"the process of the model did not start: {error}") from error
        self._channel = of_process(self._process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, message: dict[str, Any]) -> bool:
        """Send a message; False if the process is gone."""
        with self._lock:
            if not self._open:
                return False
            try:
                self._channel.send(json.dumps(message).encode(), time.monotonic() + _SEND)
            except (ChannelClosedError, ChannelTimeoutError):
                return False
        return True

    def hear(self) -> dict[str, Any] | None:
        """Wait for a message; None if there will be no more."""
        try:
            found = json.loads(self._channel.receive(LARGEST))
        except (ChannelClosedError, FrameError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def ended(self) -> str:
        """Wait for an end that is near, and say how it ended."""
        code, words = self._wait(), self._last_words()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how}: {words}" if words else how

    def end(self) -> None:
        """Have it store what it holds and end; kill it if it does not. Whoever hears, hears None.

        The pipes stay open: another thread may be waiting at one.
        """
        self.tell({"what": "end"})
        self._wait()

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        with self._lock:
            self._open = False
            self._channel.close()
            self._said.close()

    def _wait(self) -> int:
        """Wait for an end that is near; kill it where it does not come."""
        try:
            return self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _last_words(self) -> str:
        """Return the last line that it wrote to standard error."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 20_000))
        said = self._said.read().decode(errors="replace").strip()
        return said.splitlines()[-1][:400] if said else ""
