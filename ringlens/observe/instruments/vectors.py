"""Watches vectors at chosen points, layers, heads and positions.

Shape letters: B batch, T tokens of a forward, t positions of a block, D size of a vector, H heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ringlens.config import TopAttention, Vectors
from ringlens.errors import ConfigError, ObservationError
from ringlens.observe.hooks import attach
from ringlens.observe.instruments.base import (
    OUTSIDE,
    Asked,
    Instrument,
    Kind,
    TraceRows,
    Watched,
)
from ringlens.observe.instruments.transfer import PendingTensors, Tensors
from ringlens.observe.instruments.window import Window
from ringlens.observe.points import POINTS, Point, find_point, layer_of, layers_with
from ringlens.store.schema.instruments import named
from ringlens.store.schema.records import VectorArrays

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

# Where these are to be found instead: they have tables of their own.
ELSEWHERE = {
    "logits": "logprob and entropy of each token, in 'tokens'",
    "router_logits": "record 'router_logits'",
    "router_weights": "record 'routing'",
    "router_choice": "record 'routing'",
}


def resolve(lens: LoadedModel, wanted: Vectors | TopAttention) -> Vectors | TopAttention:
    """Check against the model what is to be recorded, and fill in what was left open.

    Raises:
        ConfigError: A layer or head that the model does not have, or a point that is recorded
            another way.
        ObservationError: No such point, or it does not exist in a layer.
    """
    start, stop = wanted.span
    if start < 0 or (stop is not None and stop <= start):
        raise ConfigError(f"{wanted}: the span must be start:stop with 0 <= start < stop.")
    if isinstance(wanted, TopAttention):
        heads = _heads(lens, wanted.heads, str(wanted))
        layers = _layers(lens, "attn_out", wanted.layers)
        return TopAttention(layers, heads, wanted.k, wanted.span)
    point, layer = _point(lens, wanted)
    if point.name in ELSEWHERE:
        raise ConfigError(f"{point.name} is not recorded as vectors: {ELSEWHERE[point.name]}.")
    layers = _layers(lens, point.name, wanted.layers if layer is None else (layer,))
    if point.name == "head_out":
        return Vectors(point.name, layers, _heads(lens, wanted.heads, str(wanted)), wanted.span)
    if wanted.heads is not None:
        raise ConfigError(f"{wanted}: only head_out has heads; leave them out.")
    return Vectors(point.name, layers, None, wanted.span)


def _point(lens: LoadedModel, wanted: Vectors) -> tuple[Point, int | None]:
    """The point of a request; a word that is none may have been meant as a name."""
    try:
        return find_point(wanted.point, lens.config)
    except ObservationError as error:
        near = get_close_matches(wanted.point, named(), n=1, cutoff=0.75)
        if not near:
            raise
        hint = f"Did you mean {near[0]!r}?"
        raise ConfigError(f"cannot record {str(wanted)!r:.60}. {hint}") from error


def _layers(lens: LoadedModel, point: str, layers: tuple[int, ...] | None) -> tuple[int, ...]:
    known = layers_with(POINTS[point], lens.config)
    checked = known if layers is None else {layer_of(POINTS[point], x, lens.config) for x in layers}
    return tuple(sorted(layer for layer in checked if layer is not None))


def _heads(lens: LoadedModel, heads: tuple[int, ...] | None, wanted: str) -> tuple[int, ...]:
    count = lens.sizes.heads
    if heads is None:
        return tuple(range(count))
    if not heads or min(heads) < 0 or max(heads) >= count:
        raise ConfigError(f"{wanted}: the model has heads 0 to {count - 1}.")
    return tuple(sorted(set(heads)))


class VectorInstrument:
    """Hooks at one point of some layers.

    Args:
        watched: The model, and what of it is watched.
        wanted: Resolved request; its layers are those that this process watches.
    """

    on_tape = True

    def __init__(self, watched: Watched, wanted: Vectors) -> None:
        self.model, self.wanted, self.transfer = watched.model, wanted, watched.transfer
        self.start, self._tape = 0, watched.tape
        self._window = Window(wanted.span, watched.pads)
        self._begin = self._T = 0
        self._seen: dict[int, list[Tensor]] = defaultdict(list)

    def attach(self) -> list[Any]:
        """Hook the point; returns handles to remove."""
        point = POINTS[self.wanted.point]
        layers: tuple[int | None, ...] = self.wanted.layers or (None,)
        return [Held(attach(self.model, [(point, x, partial(self._see, x)) for x in layers]))]

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins, after which ``stop`` positions are in the cache."""
        self._T = token_ids_BT.shape[1]
        self._begin = stop - self._T

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time, by layer, `OUTSIDE` for a point outside them."""
        sent = {
            layer: self.transfer.send(joined, *seen, finish=widened)
            for layer, seen in self._seen.items()
        }
        self._seen.clear()
        return sent

    def _see(self, layer: int | None, seen_BTD: Tensor) -> None:
        if self._tape.repeats:  # the step shows it at its end, and later hooks may change it
            seen_BTD = seen_BTD.clone()
        self._tape.show(partial(self._keep, layer), seen_BTD)

    def _keep(self, layer: int | None, seen_BTD: Tensor) -> None:
        part = self._window.cut(self._begin, self._T)
        if part.start == part.stop:
            return
        if not self._seen:
            self.start = self._begin + part.start
        kept = seen_BTD[:, part]
        heads = self.wanted.heads
        # Cloned: later hooks may change it in place, and a part must keep no whole alive.
        kept = kept.clone() if heads is None else kept[:, :, list(heads)]
        self._seen[OUTSIDE if layer is None else layer].append(kept)


class Held:
    """A context manager entered until ``remove``, as hook handles are."""

    def __init__(self, context: AbstractContextManager[None]) -> None:
        self._context = context
        context.__enter__()

    def remove(self) -> None:
        """Leave it."""
        self._context.__exit__(None, None, None)


def joined(*seen: Tensor) -> Tensors:
    """Vectors of several forwards, one after the other."""
    return {"values": torch.cat(seen, dim=1)}


def widened(tensors: Tensors) -> Tensors:
    """On the host: float32, as numpy has no bfloat16."""
    return {name: x.float() for name, x in tensors.items()}


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    for wanted in asked:
        assert isinstance(wanted, Vectors)
        layers = tuple(layer for layer in wanted.layers or () if layer in watched.layers)
        if layers or (not wanted.layers and watched.role.is_primary):
            yield wanted.observed_as, VectorInstrument(watched, replace(wanted, layers=layers))


def _to_record(rows: TraceRows, asked: Asked) -> Mapping[str, Any]:
    return {"vectors": tuple(_vectors(rows, asked))}


def _vectors(rows: TraceRows, asked: Asked) -> Iterator[VectorArrays]:
    for wanted in asked:
        assert isinstance(wanted, Vectors)
        point = wanted.observed_as
        if not rows.has(point, "values"):
            continue
        first, values = rows.take(point, "values")
        layers = tuple(layer for layer in rows.layers(point, "values") if layer != OUTSIDE)
        pos = np.arange(first, first + values.shape[1], dtype=np.int32)
        if len(pos):
            yield VectorArrays(point, layers, wanted.heads, pos, values)


KIND = Kind(_make, _to_record)
