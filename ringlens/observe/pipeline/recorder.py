"""Records what a model does while it runs: attach, run, detach; the model is left as it was.

Shape letters: B batch, T tokens of a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ringlens.config import OnLayers, Recorded
from ringlens.errors import ObservationError
from ringlens.observe.instruments.base import (
    Acting,
    Instrument,
    Judging,
    Watched,
    kind_of,
)
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import PendingTensors, Transfer
from ringlens.observe.pipeline.block import PendingBlock
from ringlens.observe.pipeline.ranks import RankRole
from ringlens.store.schema.instruments import by_kind

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

# Decoding steps in a block: enough that the work of a block is shared by many steps.
STEPS = 64

OnForward = Callable[[int, int], None]
OnBlock = Callable[[PendingBlock], None]

Repeated = tuple[Tensor, Callable[[], None]]
"""A decoding step that ran without Python: its tokens [B, 1], and what shows instruments the rest.
"""


class Recorder:
    """Instruments on a model, which hand over a block whenever there is enough to hand over.

    Use as a context manager around forwards that continue one another (a prefill and its decoding
    steps, or one teacher-forced forward). Rows are padded on the left or not at all.

    Args:
        lens: The model to observe.
        record: What to record, resolved for this model.
        on_block: Called with each block; may wait, and the model waits with it.
        on_forward: Called with (B, T) at the start of each forward.
        pads: Padded positions before each row; empty for none.
        role: What of the model this process watches; None: all of it.
        steps: Decoding steps in a block.
        acting: The interventions that are attached to the model.
        tape: Stands between hooks and instruments; None: they take in at once what they see.
        judge: The monitor that judges the model; None without one.

    Attributes:
        steps: Decoding steps in a block.
    """

    def __init__(
        self,
        lens: LoadedModel,
        record: tuple[Recorded, ...],
        on_block: OnBlock,
        on_forward: OnForward | None = None,
        pads: tuple[int, ...] = (),
        role: RankRole | None = None,
        steps: int = STEPS,
        acting: Acting | None = None,
        tape: Tape | None = None,
        judge: Judging | None = None,
    ) -> None:
        self.on_block, self.on_forward = on_block, on_forward
        model, self._transfer = lens.model, Transfer()
        self._model = model
        self._start = self._stop = 0
        self.steps, self._tape = steps, tape or Tape()
        self._token_ids: list[Tensor] = []
        self._handles: list[Any] = []
        role = role or RankRole(tuple(range(lens.sizes.layers)))
        watched = Watched(
            lens, role, pads, self._transfer, acting=acting, tape=self._tape, judge=judge
        )
        self._instruments = dict(_instruments(watched, record))

    def __enter__(self) -> Self:
        """Attach."""
        if self._handles:
            raise ObservationError("this recorder is attached already; make a new one.")
        model = self._model
        self._handles.append(model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for instrument in self._instruments.values():
            self._handles += instrument.attach()
        self._handles.append(model.register_forward_hook(self._end))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Detach; hand over what is left."""
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()
        if error is None:
            self._hand_over()

    @property
    def not_on_tape(self) -> list[str]:
        """Names of instruments that do not show what they see by the tape."""
        return [
            name
            for name, instrument in self._instruments.items()
            if not getattr(instrument, "on_tape", False)
        ]

    def take_in(self, steps: Iterable[Repeated]) -> None:
        """Take in decoding steps that were repeated, the earliest first."""
        for token_ids_B1, show in steps:
            self._began(token_ids_B1)
            show()
            self._ended()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._tape.repeats:
            return
        token_ids_BT = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        B, T = token_ids_BT.shape
        if T > 1:
            self._hand_over()
        self._began(token_ids_BT)
        if self.on_forward is not None:
            self.on_forward(B, T)

    def _began(self, token_ids_BT: Tensor) -> None:
        self._stop += token_ids_BT.shape[1]
        self._token_ids.append(token_ids_BT)
        for instrument in self._instruments.values():
            instrument.begin(token_ids_BT, self._stop)

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        if not self._tape.repeats:
            self._ended()

    def _ended(self) -> None:
        if self._token_ids[-1].shape[1] > 1 or self._stop - self._start >= self.steps:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._stop == self._start:
            return
        tensors: dict[str, dict[int, PendingTensors]] = {}
        starts: dict[str, int] = {}
        for name, instrument in self._instruments.items():
            tensors[name] = instrument.take()
            starts[name] = instrument.start if tensors[name] else self._start
        token_ids = self._transfer.send(
            lambda *ids: {"token_ids": torch.cat(ids, dim=1)}, *self._token_ids
        )
        block = PendingBlock(self._start, self._stop, token_ids, tensors, starts)
        self._start, self._token_ids = self._stop, []
        self.on_block(block)


def _instruments(
    watched: Watched, record: tuple[Recorded, ...]
) -> Iterator[tuple[str, Instrument]]:
    """The instruments that a request takes in this process, by the name of what they give."""
    for kind, asked in by_kind(record).items():
        yield from kind_of(kind).make(replace(watched, only=_layers(asked)), asked)


def _layers(asked: Sequence[Recorded]) -> frozenset[int] | None:
    """The layers that requests of one kind take together; None: all."""
    if not asked or not all(isinstance(item, OnLayers) for item in asked):
        return None
    return frozenset(layer for item in asked for layer in item.layers)  # type: ignore[union-attr]
