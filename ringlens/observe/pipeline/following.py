"""Following a session: from blocks in the recording thread to a function in the caller's.

Nothing here touches the device: blocks arrive on the host for the recording anyway. A session that
is followed hands over a block a step, where it else collects many.
"""

from __future__ import annotations

import math
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria

from ringlens.errors import ConfigError
from ringlens.observe.pipeline.block import Block
from ringlens.observe.pipeline.step import LiveToken, OnTokens, TokenRouting, TraceEnd, TraceStep
from ringlens.observe.pipeline.trace_buffer import TraceBuffer
from ringlens.plain import shown
from ringlens.transcript import END_THINK, THINK

ROUTING = ("expert_ids", "weights", "margin", "bias_flips")

# White space before a thought belongs to it, but does not wait for it longer than this.
LEAD = 16

# What may change how a mark before it is read: other marks, quotes, the end of its line.
SIGNS = re.compile("[<>`~\n\"'“”‘’«»「」]")
STARTS = tuple(mark[:n] for mark in (END_THINK, THINK) for n in range(len(mark) - 1, 0, -1))

Numbers = tuple[float, TokenRouting | None]


class Following:
    """Carries what the recording thread sees of running traces to the caller's thread.

    Args:
        on_tokens: Is told.
        stop: Ends the running traces when it is set.
    """

    def __init__(self, on_tokens: OnTokens | None, stop: threading.Event | None) -> None:
        self._on_tokens, self._stop = on_tokens, stop
        self._traces: dict[int, _Followed] = {}
        self._arrived: deque[TraceStep] = deque()

    def check(self, processes: int) -> None:
        """Refuse what cannot be told or stopped in a run of so many processes.

        Raises:
            ConfigError: ``on_tokens`` is no function, ``stop`` no event, or there are processes
                that would not stop together.
        """
        if self._on_tokens is not None and not callable(self._on_tokens):
            raise ConfigError(f"on_tokens is {shown(self._on_tokens)}; give a function of steps.")
        if self._stop is None:
            return
        if not isinstance(self._stop, threading.Event):
            raise ConfigError(f"stop is {shown(self._stop)}; give a threading.Event.")
        if processes > 1:
            raise ConfigError(
                f"stop cannot end a run of {processes} processes, which would not see it at the "
                "same token: leave it out, and interrupt the run instead."
            )

    @property
    def stops(self) -> bool:
        """Whether the traces shall end now."""
        return self._stop is not None and self._stop.is_set()

    def tell(self) -> None:
        """Tell the caller, in whose thread this runs, what has arrived."""
        steps = []
        while self._arrived:
            steps.append(self._arrived.popleft())
        if steps and self._on_tokens is not None:
            self._on_tokens(steps)

    def begin(self, buffers: Sequence[TraceBuffer]) -> None:
        """These traces follow; what the store has of them is told at once."""
        self._traces = {id(buffer): _Followed(buffer) for buffer in buffers}
        for followed in self._traces.values():
            self._put(followed.step())

    def saw(self, buffer: TraceBuffer, block: Block, start: int) -> None:
        """A trace has taken a block: its tokens from ``start`` on are new."""
        followed = self._traces[id(buffer)]
        followed.take(block, start)
        self._put(followed.step())

    def ended(self, buffer: TraceBuffer) -> None:
        """No tokens follow, though no end was seen."""
        self._put(self._traces[id(buffer)].step())

    def stored(self, buffer: TraceBuffer) -> None:
        """All of a trace is in the store."""
        assert buffer.trace_id is not None
        end = TraceEnd(buffer.trace_id, buffer.finish_reason)
        self._put(TraceStep(buffer.task.item, end=end, trace_id=buffer.trace_id))

    def _put(self, step: TraceStep) -> None:
        if step.tokens or step.reread or step.end is not None:
            self._arrived.append(step)


class EachStep(StoppingCriteria):
    """Tells after each step of ``generate`` what has arrived, and stops it if that is asked for."""

    def __init__(self, following: Following) -> None:
        self._following = following

    def __call__(
        self, input_ids: torch.LongTensor, scores: tuple[Tensor] | None, **kwargs: object
    ) -> torch.BoolTensor:
        """Whether to stop, the same for all traces, bool [B]."""
        self._following.tell()
        stops, device = self._following.stops, input_ids.device
        return torch.full((len(input_ids),), stops, device=device)  # type: ignore[return-value]


class _Followed:
    """One trace: what of it was told, and the numbers of the tokens that were not."""

    def __init__(self, buffer: TraceBuffer) -> None:
        self._buffer = buffer
        self._phase: list[str] = []  # of the tokens that were told
        self._marked = False
        entropy = () if buffer.task.earlier is None else buffer.task.earlier.entropy.tolist()
        self._numbers: list[Numbers] = [(value, None) for value in entropy]

    def take(self, block: Block, start: int) -> None:
        """Keep what a block says of the tokens from ``start`` on."""
        buffer = self._buffer
        stop = len(buffer)
        entropy = _part(buffer, block, ("logprobs", "entropy"), start, stop)
        routing = [_part(buffer, block, ("routing", name), start, stop) for name in ROUTING]
        layers = block.layers.get(("routing", "margin"), ())
        for column in range(stop - start):
            # In a padded row something stands before the first token: padding.
            known = entropy is not None and start + column > 0
            chosen = [array[:, column] for array in routing if array is not None]
            self._numbers.append(
                (
                    float(entropy[0, column]) if entropy is not None and known else math.nan,
                    TokenRouting(layers, *chosen) if chosen else None,
                )
            )

    def step(self) -> TraceStep:
        """What can be told now, and was not."""
        buffer, told = self._buffer, len(self._phase)
        if buffer.done:
            buffer.text.close()
        stop = self._ready()
        phase, reread = self._read(told, stop)
        self._phase += phase
        pieces, token_ids = buffer.text.pieces, buffer.token_ids
        tokens = tuple(
            LiveToken(pos, token_ids[pos], pieces[pos], phase[pos - told], *numbers)
            for pos, numbers in zip(range(told, stop), self._numbers, strict=False)
        )
        del self._numbers[: stop - told]
        return TraceStep(buffer.task.item, tokens, reread, trace_id=buffer.trace_id)

    def _ready(self) -> int:
        """How many tokens can be told: those behind may be read otherwise with the next."""
        buffer, n_prompt = self._buffer, self._buffer.task.n_prompt
        pieces, stop = buffer.text.pieces, len(buffer)
        if buffer.done or stop <= n_prompt:
            return stop
        while stop > n_prompt and not pieces[stop - 1]:  # a character that is not complete
            stop -= 1
        if stop - n_prompt <= LEAD and not "".join(pieces[n_prompt:stop]).strip():
            return max(n_prompt, len(self._phase))
        tail = "".join(pieces[max(stop - len(END_THINK), n_prompt) : stop])
        begun = next((len(start) for start in STARTS if tail.endswith(start)), 0)
        while begun > 0:
            stop -= 1
            begun -= len(pieces[stop])
        return max(stop, len(self._phase))

    def _read(self, told: int, stop: int) -> tuple[list[str], Mapping[int, str]]:
        """Phases of the tokens from ``told`` on, and of earlier ones that are read anew."""
        buffer, n_prompt = self._buffer, self._buffer.task.n_prompt
        if stop == told and not buffer.done:
            return [], {}
        new = "".join(buffer.text.pieces[max(told, n_prompt) : stop])
        begins = told <= n_prompt < stop
        signs = ">" in new or (self._marked and SIGNS.search(new))
        if told and not begins and not signs and not buffer.done:
            return self._phase[-1:] * (stop - told), {}
        phase = buffer.read(stop).phase
        self._marked = self._marked or ">" in new
        changed = {
            pos: now
            for pos, (before, now) in enumerate(zip(self._phase, phase, strict=False))
            if before != now
        }
        self._phase = phase[:told]
        return phase[told:stop], changed


def _part(
    buffer: TraceBuffer, block: Block, name: tuple[str, str], start: int, stop: int
) -> np.ndarray | None:
    """Positions ``start`` to ``stop`` of what a block has of a trace [L, T, …]."""
    if name not in block.fields:
        return None
    first = block.starts[name[0]] - buffer.pad
    return block.fields[name][:, buffer.row, start - first : stop - first]
