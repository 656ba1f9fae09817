"""Times variants in turn (A B A B …) on the device, and the memory each takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def device_medians(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each variant between events, after two turns to warm up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 2):
        for name, run in variants.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            if turn > 1:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(found) for name, found in times.items()}


def peak_bytes(run: Callable[[], object]) -> int:
    """Device memory that ``run`` takes beside what was there before."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def device_line() -> str:
    """The device and the libraries in a line."""
    import importlib.metadata as metadata

    names = ("torch", "triton", "transformers")
    return ", ".join(
        [torch.cuda.get_device_name(), *(f"{name} {metadata.version(name)}" for name in names)]
    )
