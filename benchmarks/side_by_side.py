"""Times variants in turn (A B A B …) in one run, so that a noisy machine disturbs all alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

ROUNDS = 5


def medians(variants: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each variant over ``rounds`` turns, after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine() -> str:
    """The machine in a line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
