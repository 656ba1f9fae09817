"""Waiting for what other threads and processes do, however busy the machine is."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Look until a condition holds; fail after a time that no slow machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
