"""A block: what was seen at some positions of all traces of a batch.

Shape letters: L layers, B batch, t positions of the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringlens.observe.parcel import Parcel

Field = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """An opened block.

    Attributes:
        start: First position, padding counted.
        stop: Position behind the last.
        token_ids: [B, t].
        fields: Arrays [L, B, t, …] by instrument and name of the field.
        layers: The L layers of each instrument, ascending.
    """

    start: int
    stop: int
    token_ids: NDArray[np.integer]
    fields: dict[Field, NDArray]
    layers: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Block:
    """Parcels of each instrument by layer, and the tokens they belong to."""

    start: int
    stop: int
    token_ids: Parcel
    parcels: Mapping[str, Mapping[int, Parcel]]

    @property
    def bytes(self) -> int:
        """Memory that the block holds until it is opened."""
        return sum(parcel.bytes for sent in self.parcels.values() for parcel in sent.values())

    def open(self) -> Seen:
        """Wait for the parcels and unpack them."""
        fields: dict[Field, NDArray] = {}
        layers = {name: tuple(sorted(sent)) for name, sent in self.parcels.items()}
        for instrument, sent in self.parcels.items():
            opened = [sent[layer].open() for layer in layers[instrument]]
            for name in list(opened[0]) if opened else ():
                stacked = np.stack([tensors.pop(name).numpy() for tensors in opened])
                fields[instrument, name] = stacked
        token_ids = self.token_ids.open()["token_ids"].numpy()
        return Seen(self.start, self.stop, token_ids, fields, layers)
