"""The noise of drawn tokens, made ahead of the steps that take it.

It depends on seeds and positions alone, so threads draw it on the CPU while the model runs, and it
is brought to the device on a stream of its own, some steps at a time.

Shape letters: B batch, V vocabulary, W steps in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

import torch

from ringlens.observe.sampling import noise_at

# Threads at most: more would take the cores from those who encode.
THREADS = 8


class NoiseAhead:
    """Noise of the steps that follow, half of its memory being read while the other is filled.

    Use as a context manager.

    Args:
        seeds: Seed of each trace.
        positions: Position in each trace of the token that is drawn first.
        vocabulary: V.
        steps: Steps that are brought at a time.
        last: Steps in all.
        device: Where it is read.

    Attributes:
        at_WBV: The noise of step t, at place t modulo W.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        positions: Sequence[int],
        vocabulary: int,
        steps: int,
        last: int,
        device: torch.device,
    ) -> None:
        self._seeds, self._positions = seeds, positions
        self._steps, self._last = steps, last
        shape, self._on_cuda = (2 * steps, len(seeds), vocabulary), device.type == "cuda"
        self.at_WBV = torch.empty(shape, device=device)
        self._host_WBV = torch.empty(shape, pin_memory=self._on_cuda)
        self._stream = torch.cuda.Stream(device) if self._on_cuda else None
        self._read: dict[int, torch.cuda.Event] = {}
        self._copied: dict[int, torch.cuda.Event] = {}
        self._made: dict[int, list[Future[None]]] = {}
        cores = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(min(THREADS, max(1, cores - 2)), "ringlens-noise")

    def __enter__(self) -> Self:
        """Begin with the first steps."""
        self._make(0)
        self._make(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Make no more."""
        self._pool.shutdown(cancel_futures=True)

    def bring(self, first: int) -> None:
        """Have the noise of the steps from ``first`` on in its place; all before were launched."""
        part = first // self._steps
        for made in self._made.pop(part):
            made.result()
        half = self._half(part)
        if self._stream is None:
            self.at_WBV[half] = self._host_WBV[half]
        else:
            here = torch.cuda.current_stream(self.at_WBV.device)
            self._read[part - 1] = here.record_event()
            if (read := self._read.pop(part - 2, None)) is not None:
                self._stream.wait_event(read)
            with torch.cuda.stream(self._stream):
                self.at_WBV[half].copy_(self._host_WBV[half], non_blocking=True)
            self._copied[part] = self._stream.record_event()
            here.wait_event(self._copied[part])
        self._make(part + 2)

    def _half(self, part: int) -> slice:
        start = part % 2 * self._steps
        return slice(start, start + self._steps)

    def _make(self, part: int) -> None:
        """Let threads draw the noise of a number of steps."""
        copied = self._copied.pop(part - 2, None)
        steps = range(part * self._steps, min((part + 1) * self._steps, self._last))
        self._made[part] = [self._pool.submit(partial(self._draw, t, copied)) for t in steps]

    def _draw(self, step: int, copied: torch.cuda.Event | None) -> None:
        if copied is not None:  # until then the place is still read
            copied.synchronize()
        positions = [position + step for position in self._positions]
        with torch.inference_mode():
            noise_at(self._seeds, positions, self._host_WBV[step % len(self._host_WBV)])
