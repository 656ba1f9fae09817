"""What hooks show: taken in at once, or kept until a decoding step is told of.

A decoding step that a CUDA graph repeats runs no Python, so hooks see it once, when it is laid
down. What they are shown then are the tensors that every repetition writes anew. The tape keeps
which these are and who is to see them; `ringlens.observe.decoding` copies their contents aside at
each repetition, and shows the copies later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

See = Callable[..., None]
"""Takes in tensors of one forward."""


@dataclass(frozen=True)
class Shown:
    """Tensors of a step, and who is to see their contents.

    Attributes:
        see: Sees them.
        tensors: The tensors.
    """

    see: See
    tensors: tuple[Tensor, ...]


class Tape:
    """Stands between the hooks of instruments and what the instruments keep.

    Attributes:
        held: Tensors by name that a step leaves for the next one, in memory that stays.
    """

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}
        self._step: list[Shown] | None = None

    @property
    def repeats(self) -> bool:
        """Whether a step runs that may be repeated: nothing but tensors stays of it."""
        return self._step is not None

    def show(self, see: See, *tensors: Tensor) -> None:
        """Let ``see`` take tensors in: at once, or when the step is told of."""
        if self._step is None:
            see(*tensors)
        else:
            self._step.append(Shown(see, tensors))

    def hold(self, name: str, value: Tensor) -> None:
        """Leave a value for the next step, where an earlier one of its kind lies."""
        place = self.held.get(name)
        if place is None or (place.shape, place.dtype) != (value.shape, value.dtype):
            self.held[name] = value.clone()
        else:
            place.copy_(value)

    @contextmanager
    def step(self) -> Iterator[list[Shown]]:
        """A step that may be repeated runs as long as the block does; gives what it shows."""
        shown: list[Shown] = []
        self._step = shown
        try:
            yield shown
        finally:
            self._step = None
