"""A block: what was seen at some positions of all traces of a batch.

Shape letters: L layers, B batch, t positions of the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlens.observe.instruments.transfer import Parcel

Field = tuple[str, str]


@dataclass(frozen=True)
class Shipment:
    """What one instrument saw.

    Attributes:
        start: First position, padding counted.
        parcels: Its results by layer, all of the same positions.
    """

    start: int
    parcels: Mapping[int, Parcel]


@dataclass(frozen=True)
class Seen:
    """An opened block.

    Attributes:
        start: First position, padding counted.
        stop: Position behind the last.
        token_ids: [B, t].
        fields: Arrays [L, B, t, …] by instrument and name of the field; of instruments that look
            at some positions only, fewer than t.
        layers: The L layers of each instrument, ascending.
        starts: First position of each instrument's arrays.
    """

    start: int
    stop: int
    token_ids: NDArray[np.integer]
    fields: dict[Field, NDArray]
    layers: dict[str, tuple[int, ...]]
    starts: dict[str, int]


@dataclass(frozen=True)
class Block:
    """What each instrument saw, and the tokens that it belongs to."""

    start: int
    stop: int
    token_ids: Parcel
    shipments: Mapping[str, Shipment]

    @property
    def bytes(self) -> int:
        """Memory that the block holds until it is opened."""
        return sum(p.bytes for sent in self.shipments.values() for p in sent.parcels.values())

    def open(self) -> Seen:
        """Wait for the parcels and unpack them."""
        fields: dict[Field, NDArray] = {}
        layers = {name: tuple(sorted(sent.parcels)) for name, sent in self.shipments.items()}
        for instrument, sent in self.shipments.items():
            opened = [sent.parcels[layer].open() for layer in layers[instrument]]
            for name in list(opened[0]) if opened else ():
                stacked = np.stack([tensors.pop(name).numpy() for tensors in opened])
                fields[instrument, name] = stacked
        token_ids = self.token_ids.open()["token_ids"].numpy()
        starts = {name: sent.start for name, sent in self.shipments.items()}
        return Seen(self.start, self.stop, token_ids, fields, layers, starts)
