"""Records what a model does while it runs: attach, run, detach; the model is left as it was.

Shape letters: B batch, T tokens of a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ringlens.config import Recorded, TopAttention
from ringlens.errors import ObservationError
from ringlens.observe.instruments.heads import AttentionInstrument, head_fields, top_fields
from ringlens.observe.instruments.logprobs import PeakInstrument, VocabularyInstrument
from ringlens.observe.instruments.routing import RoutingInstrument
from ringlens.observe.instruments.transfer import Courier, bring
from ringlens.observe.instruments.vectors import VectorInstrument, Window
from ringlens.observe.pipeline.block import Block, Shipment
from ringlens.observe.pipeline.ranks import Place

if TYPE_CHECKING:
    from ringlens.lens import Lens

# Decoding steps in a block: enough that the work of a block is shared by many steps.
STEPS = 64

OnForward = Callable[[int, int], None]
OnBlock = Callable[[Block], None]


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
        place: What of the model this process watches; None: all of it.
    """

    def __init__(
        self,
        lens: Lens,
        record: tuple[Recorded, ...],
        on_block: OnBlock,
        on_forward: OnForward | None = None,
        pads: tuple[int, ...] = (),
        place: Place | None = None,
    ) -> None:
        self.on_block, self.on_forward = on_block, on_forward
        model, self._courier = lens.model, Courier()
        self._model = model
        self._start = self._stop = 0
        self._token_ids: list[Tensor] = []
        self._handles: list[Any] = []
        place = place or Place(tuple(range(model.config.num_hidden_layers)))
        self._vocabulary: VocabularyInstrument | PeakInstrument | None = None
        if place.speaks:
            watch = VocabularyInstrument if "logprobs" in record else PeakInstrument
            self._vocabulary = watch(model, self._courier)
        self._instruments = dict(_instruments(lens, record, place, pads, self._courier))

    def __enter__(self) -> Self:
        """Attach."""
        if self._handles:
            raise ObservationError("this recorder is attached already; make a new one.")
        model = self._model
        self._handles.append(model.register_forward_pre_hook(self._begin, with_kwargs=True))
        if self._vocabulary is not None:
            self._handles += self._vocabulary.attach()
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

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        token_ids_BT = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        B, T = token_ids_BT.shape
        if T > 1:
            self._hand_over()
        self._stop += T
        self._token_ids.append(token_ids_BT)
        if self._vocabulary is not None:
            self._vocabulary.tokens(token_ids_BT)
        for instrument in self._instruments.values():
            instrument.begin((B, T), self._stop)
        if self.on_forward is not None:
            self.on_forward(B, T)

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._token_ids[-1].shape[1] > 1 or self._stop - self._start >= STEPS:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._stop == self._start:
            return
        shipments: dict[str, Shipment] = {}
        if self._vocabulary is not None:
            shipments["vocabulary"] = Shipment(self._start, self._vocabulary.take())
        for name, instrument in self._instruments.items():
            parcels = instrument.take()
            shipments[name] = Shipment(instrument.start if parcels else self._start, parcels)
        token_ids = self._courier.send(
            lambda *ids: {"token_ids": torch.cat(ids, dim=1)}, *self._token_ids
        )
        block = Block(self._start, self._stop, token_ids, shipments)
        self._start, self._token_ids = self._stop, []
        self.on_block(block)


Instrument = RoutingInstrument | AttentionInstrument | VectorInstrument


def _instruments(
    lens: Lens,
    record: tuple[Recorded, ...],
    place: Place,
    pads: tuple[int, ...],
    courier: Courier,
) -> Iterator[tuple[str, Instrument]]:
    """The instruments that a request takes in this process, by the name of what they give."""
    model, layers = lens.model, place.layers
    first_B = bring(torch.tensor(pads), lens.device) if any(pads) else None
    if "routing" in record:
        sparse = tuple(layer for layer in layers if layer in model.config.sparse_layers)
        logits = "router_logits" in record
        yield "routing", RoutingInstrument(model, sparse, lens.router, logits, courier)
    if "heads" in record or "head_blocks" in record:
        yield "heads", AttentionInstrument(model, layers, head_fields, first_B, courier)
    for wanted in record:
        if isinstance(wanted, str):
            continue
        watched = tuple(layer for layer in wanted.layers or () if layer in layers)
        if isinstance(wanted, TopAttention):
            compute = partial(top_fields, wanted.k, wanted.heads or ())
            window = Window(wanted.span, pads)
            yield (
                "attention",
                AttentionInstrument(model, watched, compute, first_B, courier, window),
            )
        elif watched or (not wanted.layers and place.speaks):
            mine = replace(wanted, layers=watched)
            yield wanted.point, VectorInstrument(model, mine, pads, courier)
