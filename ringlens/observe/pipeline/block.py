"""A block: what was observed at some positions of all traces of a batch.

Shape letters: L layers, B batch, t positions of the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlens.observe.instruments.transfer import PendingTensors

Field = tuple[str, str]


@dataclass(frozen=True)
class Block:
    """What each instrument observed, on the host.

    Attributes:
        start: First position, padding counted.
        stop: Position behind the last.
        token_ids: [B, t].
        fields: Arrays [L, B, t, …] by instrument and name of the field; of instruments that look
            at some positions only, fewer than t.
        layers: The L layers of each field, ascending.
        starts: First position of each instrument's arrays.
    """

    start: int
    stop: int
    token_ids: NDArray[np.integer]
    fields: dict[Field, NDArray]
    layers: dict[Field, tuple[int, ...]]
    starts: dict[str, int]


@dataclass(frozen=True)
class PendingBlock:
    """A block whose tensors are on their way to the host.

    Attributes:
        start: First position, padding counted.
        stop: Position behind the last.
        token_ids: Its tokens.
        tensors: Results by instrument and layer, all of an instrument of the same positions.
        starts: First position of each instrument's results.
    """

    start: int
    stop: int
    token_ids: PendingTensors
    tensors: Mapping[str, Mapping[int, PendingTensors]]
    starts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Memory that the block holds until it is opened."""
        return sum(t.bytes for by_layer in self.tensors.values() for t in by_layer.values())

    def open(self) -> Block:
        """Wait for the tensors and stack them by layer."""
        fields: dict[Field, NDArray] = {}
        layers: dict[Field, tuple[int, ...]] = {}
        for instrument, by_layer in self.tensors.items():
            opened = {layer: by_layer[layer].open() for layer in sorted(by_layer)}
            for name in dict.fromkeys(name for tensors in opened.values() for name in tensors):
                field, own = (instrument, name), [x for x in opened if name in opened[x]]
                layers[field] = tuple(own)
                fields[field] = np.stack([opened[layer].pop(name).numpy() for layer in own])
        token_ids = self.token_ids.open()["token_ids"].numpy()
        return Block(self.start, self.stop, token_ids, fields, layers, dict(self.starts))
