"""Watches what a monitor says of each token.

Shape letters: B batch, T tokens of a forward, t positions of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ringlens.errors import ConfigError
from ringlens.observe.instruments.base import OUTSIDE, Asked, Instrument, Kind, Watched
from ringlens.observe.instruments.transfer import PendingTensors, Tensors
from ringlens.observe.instruments.vectors import Held

NAME = "monitor_scores"
"""What a monitored run records, and the table that has it."""


class MonitorInstrument:
    """Keeps the scores of a monitor.

    Args:
        watched: The model, and its monitor.
    """

    on_tape = False

    def __init__(self, watched: Watched) -> None:
        self._judge, self._transfer, self.start = watched.judge, watched.transfer, 0
        self._seen: list[Tensor] = []

    def attach(self) -> list[Any]:
        """Have the monitor judge; returns what ends that."""
        if self._judge is None:
            raise ConfigError(
                f"{NAME} are recorded of a run with a monitor; give one (monitor=…, --monitor)."
            )
        return [Held(self._judge.attached(self._keep))]

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins, after which ``stop`` positions are in the cache."""
        if not self._seen:
            self.start = stop - token_ids_BT.shape[1]

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time."""
        seen, self._seen = self._seen, []
        return {OUTSIDE: self._transfer.send(joined, *seen)} if seen else {}

    def _keep(self, score_BT: Tensor, recent_BT: Tensor) -> None:
        self._seen += [score_BT, recent_BT]


def joined(*seen: Tensor) -> Tensors:
    """Scores and recent means of several forwards, [B, t]."""
    return {"score": torch.cat(seen[::2], dim=1), "recent": torch.cat(seen[1::2], dim=1)}


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    yield NAME, MonitorInstrument(watched)


KIND = Kind(_make)
