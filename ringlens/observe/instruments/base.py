"""What an instrument is.

An instrument watches a model while it runs and hands over tensors, block by block. A kind of
instrument makes the instruments of a request, and makes rows of a trace of what they handed over.
What its rows mean is not said here: a row of `ringlens.store.schema.instruments` declares their
table, and names the kind.

A new statistic of the attention heads is a row there, and here a file such as

    def largest(scaling, key_BGSC, first_B, *seen) -> Tensors: ...   # each field [B, t, H]

    KIND = attention_statistic("largest_weight", largest)

Shape letters: B batch, T tokens of a forward, t positions of a block, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ringlens.config import Recorded
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import PendingTensors, Transfer, bring
from ringlens.store.schema.instruments import OBSERVED_BY, declaration_of, layers_asked
from ringlens.store.schema.records import LayerArrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ringlens.model.loaded import LoadedModel
    from ringlens.observe.pipeline.ranks import RankRole

OUTSIDE = -1
"""Stands for the layer of what lies outside the layers."""


class Handle(Protocol):
    """What was attached."""

    def remove(self) -> None:
        """Detach it."""


class Instrument(Protocol):
    """Watches a model while it runs.

    Attributes:
        start: First position, padding counted, of what `take` gives.
    """

    start: int

    def attach(self) -> list[Handle]:
        """Attach to the model; returns what detaches it, the last first."""

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins, after which ``stop`` positions are in the cache."""

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time: by layer, fields [B, t, …]."""


class RouterStep(Protocol):
    """What interventions made of one router in the forward that runs.

    Shape letters: N tokens, k experts a token, I interventions of the layer.
    """

    @property
    def ids_Nk(self) -> Tensor:
        """The experts that run."""

    @property
    def own_ids_Nk(self) -> Tensor:
        """The experts that the router chose itself."""

    @property
    def own_weights_Nk(self) -> Tensor:
        """Their weights."""

    @property
    def active_NI(self) -> Tensor:
        """Which interventions act, bool."""


class Acting(Protocol):
    """Interventions that are attached to a model."""

    def numbers(self, layer: int) -> tuple[int, ...]:
        """Places of those that act on a layer's router among all; empty for none."""

    def step(self, layer: int) -> RouterStep:
        """What they made of a layer's router in the forward that runs."""

    def margins(
        self, layer: int, logits_NE: Tensor, active_NI: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """By what the last chosen expert and the last kept group won under them, [N] each.

        None where nothing edits the scores of the layer.
        """


@dataclass(frozen=True)
class Watched:
    """What instruments are made for: a model, and what of it this process watches.

    Attributes:
        loaded: The model.
        role: What this process watches.
        pads: Padded positions before each row; empty for none.
        transfer: Brings results to the host.
        only: The layers that are asked for; None: all.
        acting: The interventions that are attached to the model; None without any.
        tape: Stands between hooks and what is kept.
        judge: The monitor that judges the model; None without one.
    """

    loaded: LoadedModel
    role: RankRole
    pads: tuple[int, ...]
    transfer: Transfer
    only: frozenset[int] | None = None
    acting: Acting | None = None
    tape: Tape = field(default_factory=Tape)
    judge: Judging | None = None

    @property
    def model(self) -> Any:
        """The model itself."""
        return self.loaded.model

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that this process watches."""
        only = self.only
        return tuple(layer for layer in self.role.layers if only is None or layer in only)

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """Those of them that route."""
        return tuple(layer for layer in self.layers if layer in self.loaded.sizes.sparse_layers)

    @cached_property
    def first_B(self) -> Tensor | None:
        """First position of each row that is no padding; None: position 0 in all."""
        return bring(torch.tensor(self.pads), self.loaded.device) if any(self.pads) else None


class Judging(Protocol):
    """A monitor that judges the model."""

    def attached(self, see: Callable[[Tensor, Tensor], None]) -> AbstractContextManager[None]:
        """Show scores and recent means [B, T] of every forward of the block."""


class TraceRows(Protocol):
    """What waits of one trace and is to be stored now."""

    @property
    def pad(self) -> int:
        """Padded positions before the trace."""

    @property
    def interventions(self) -> Mapping[int, tuple[int, ...]] | None:
        """By layer the places in ``runs.interventions`` of what acts on its router; None: none."""

    def has(self, instrument: str, field: str) -> bool:
        """Whether this process has observed a field of an instrument."""

    def layers(self, instrument: str, field: str) -> tuple[int, ...]:
        """The layers of a field, ascending; `OUTSIDE` for none."""

    def take(self, instrument: str, field: str) -> tuple[int, NDArray]:
        """The position of the first row, and the rows [L, T, …]; they wait no more."""


Asked = Sequence[Recorded]
Make = Callable[[Watched, Asked], Iterator[tuple[str, Instrument]]]
ToRecord = Callable[[TraceRows, Asked], Mapping[str, Any]]


def statistics(rows: TraceRows, asked: Asked) -> Mapping[str, Any]:
    """Fields named as the columns of their table, as what a record has of that table."""
    found = {}
    for item in asked:
        declaration = declaration_of(item)
        instrument = declaration.observed_as
        names = [column.name for column in declaration.values]
        if all(rows.has(instrument, name) for name in names):
            seen = tuple(x for x in rows.layers(instrument, names[0]) if x != OUTSIDE)
            columns = {name: rows.take(instrument, name)[1] for name in names}
            arrays = LayerArrays(seen, columns)
            found[declaration.table.name] = arrays.only(layers_asked(declaration.name, asked, seen))
    return {"statistics": found}


@dataclass(frozen=True)
class Kind:
    """A kind of instrument.

    Attributes:
        make: The instruments that a request takes in this process, each with the name of its
            numbers on their way. Given what is to be watched, and what is asked for of this kind.
        to_record: Makes fields of a `ringlens.store.schema.records.TraceRecord` of a trace's rows.
    """

    make: Make
    to_record: ToRecord = statistics


def kind_of(named: object) -> Kind:
    """The kind that a declaration names."""
    if isinstance(named, Kind):
        return named
    kind: Kind = import_module(f"{OBSERVED_BY}.{named}").KIND
    return kind
