"""Interventions, attached to a model: plain torch hooks, gone when the block ends.

Shape letters: B rows, T tokens of a forward, N = B·T, D hidden size, E experts, k experts a token,
H heads, C head dimension, I interventions of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ringlens.errors import ObservationError
from ringlens.interventions import Intervention
from ringlens.interventions.experts import OnRouter
from ringlens.observe.hooks import RECHOOSE, attach
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.interventions.continued import Continued, Repeated, cache_given
from ringlens.observe.interventions.effect import Effect, Numbers
from ringlens.observe.interventions.reader import Prompts, TextReader
from ringlens.observe.interventions.resolve import point_of
from ringlens.observe.interventions.selection import RouterEdits
from ringlens.observe.interventions.stream import Stream
from ringlens.observe.interventions.tally import RouterTally, Seen
from ringlens.observe.interventions.whereabouts import Whereabouts, forward_of
from ringlens.observe.kernels.router import selection_scores
from ringlens.observe.points import (
    POINTS,
    gate,
    in_this_process,
    live_selection_bias,
    router_items,
)

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from ringlens.model.loaded import LoadedModel

_ATTACHED: WeakKeyDictionary[nn.Module, Attached] = WeakKeyDictionary()


def attached_to(model: nn.Module) -> Attached | None:
    """The interventions that are attached to a model; None for none."""
    return _ATTACHED.get(model)


@dataclass(frozen=True)
class RouterStep:
    """What an intervened router did in the forward that runs.

    Attributes:
        ids_Nk: The experts that run.
        own_ids_Nk: The experts that the router chose itself.
        own_weights_Nk: Their weights.
        active_NI: Which of the layer's interventions act, bool.
    """

    ids_Nk: Tensor
    own_ids_Nk: Tensor
    own_weights_Nk: Tensor
    active_NI: Tensor


class Router:
    """The interventions on the router of one layer.

    Args:
        loaded: The model.
        layer: The layer.
        acts: Numbers and interventions, in the order in which they are given.
        where: Says at which tokens they act.
        tape: Stands between what is seen and what is counted.

    Attributes:
        numbers: Their numbers among all interventions.
        step: What it did in the forward that runs, or ran last.
        has_run: Whether it has run in this forward.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layer: int,
        acts: Sequence[tuple[int, OnRouter]],
        where: Whereabouts,
        tape: Tape,
    ) -> None:
        self.layer, self.numbers = layer, tuple(number for number, _ in acts)
        self.module = gate(loaded.model, layer)
        self._acts = tuple(act for _, act in acts)
        self._family, self._rule = loaded.family, loaded.router
        self._where, self._tape = where, tape
        self._items = router_items(loaded.config)
        self._bias_E = live_selection_bias(loaded.model, layer)
        self._edits: RouterEdits | None = None
        self.tally: RouterTally | None = None
        self.step: RouterStep | None = None
        self.has_run = False

    def hook(self, module: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> tuple:
        """Behind the router's own forward."""
        self.has_run = True
        return self.change(output)

    def rechoose(self, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the router gives for other logits that it was given by hand.

        Before its own hook has run that is left to the hook, which sees this output.
        """
        return self.change(output, again=True) if self.has_run else output

    def change(self, output: tuple[Tensor, ...], again: bool = False) -> tuple[Tensor, ...]:
        """What the router gives under the interventions, for what it gives itself.

        Args:
            output: What it gives itself.
            again: In place of what it gave before in the same forward.
        """
        logits_NE, weights_Nk, own_Nk = (output[item] for item in self._items)
        edits = self._on(logits_NE.device)
        active_NI = self._where.active(self.numbers, logits_NE.device)
        ids_Nk, new_weights_Nk = own_Nk, weights_Nk
        if edits.edits:
            scores_NE = selection_scores(logits_NE.float(), self._bias_E, self._rule)
            acts_NI = active_NI & edits.edits_I if edits.behind else active_NI
            ids_Nk, new_weights_Nk = self._where_edited(
                edits.rechoose(scores_NE, active_NI), logits_NE, weights_Nk, own_Nk, acts_NI
            )
        ids_Nk, new_weights_Nk, behind = edits.act_behind(ids_Nk, new_weights_Nk, active_NI)
        self.step = RouterStep(ids_Nk, own_Nk, weights_Nk, active_NI)
        seen = logits_NE.detach(), own_Nk, ids_Nk, active_NI, *behind.values()
        self._tape.show(partial(self._tell, again, tuple(behind)), *seen)
        replaced = dict(zip(self._items, (logits_NE, new_weights_Nk, ids_Nk), strict=True))
        return tuple(replaced.get(i, x) for i, x in enumerate(output))

    def _tell(
        self,
        again: bool,
        behind: Sequence[int],
        logits_NE: Tensor,
        own_Nk: Tensor,
        ids_Nk: Tensor,
        active_NI: Tensor,
        *changed: Tensor,
    ) -> None:
        """Count what the router did."""
        assert self.tally is not None
        acted = dict(zip(behind, changed, strict=True))
        self.tally.add(Seen(logits_NE, self._bias_E, own_Nk, ids_Nk, active_NI, acted), again)

    def margins(self, logits_NE: Tensor, active_NI: Tensor) -> tuple[Tensor, Tensor] | None:
        """By what the choice under the interventions was won, [N] each; None without edits."""
        edits = self._on(logits_NE.device)
        if not edits.edits:
            return None
        scores_NE = selection_scores(logits_NE.float(), self._bias_E, self._rule)
        return edits.margins(scores_NE, active_NI)

    def _where_edited(
        self,
        chosen_Nk: Tensor,
        logits_NE: Tensor,
        weights_Nk: Tensor,
        own_Nk: Tensor,
        active_NI: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The new choice and its weights where an edit acts, else the router's own."""
        acts_N1 = active_NI.any(dim=1, keepdim=True)
        new_Nk = self._family.routing_weights(self.module, logits_NE.float(), chosen_Nk)
        weights_Nk = torch.where(acts_N1, new_Nk.to(weights_Nk.dtype), weights_Nk)
        return torch.where(acts_N1, chosen_Nk.to(own_Nk.dtype), own_Nk), weights_Nk

    def _on(self, device: torch.device) -> RouterEdits:
        if self._edits is None or self._edits.device != device:
            self._edits = RouterEdits(self._acts, self._rule, device)
            self._bias_E = self._bias_E.to(device)
            self.tally = self.tally or RouterTally(self._edits)
        return self._edits


class Attached:
    """Interventions and their hooks.

    Args:
        loaded: The model.
        rows: The interventions, resolved for the model: one tuple for all rows of a batch, or one
            for each row.
        by_row: Whether there is one for each row.

    Attributes:
        tape: Stands between what they see and what is counted.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rows: Sequence[Sequence[Intervention]],
        by_row: bool = False,
    ) -> None:
        self.interventions, self._rows = _numbered(rows, by_row)
        self._loaded = loaded
        places = [each.place for each in self.interventions]
        reads = any(place.reads_text for place in places)
        self.tape = Tape()
        self._reader = TextReader(loaded, places, self.tape) if reads else None
        self._continued, self._repeated = Continued(), Repeated()
        count = len(rows) if by_row else None
        self._where = Whereabouts(self.interventions, self._rows, count, self._reader, self.tape)
        numbered = list(enumerate(self.interventions))
        self.routers = {
            layer: Router(loaded, layer, acts, self._where, self.tape)
            for layer in loaded.sizes.sparse_layers
            if in_this_process(loaded.model, POINTS["router_logits"], layer)
            and (acts := list(_on_router(numbered, layer)))
        }
        self.streams = tuple(_streams(loaded, numbered, self._where, self.tape))
        self.effect = Effect(self.interventions, self._rows, self._numbers)

    @contextmanager
    def attached(self) -> Iterator[Effect]:
        """Act for as long as the block runs; `Effect.close` is left to the caller.

        Raises:
            ObservationError: Others are attached already.
        """
        model = self._loaded.model
        if model in _ATTACHED:
            raise ObservationError(
                "interventions are attached to this model already; give all of them at once, so "
                "that it is clear what each of them changes."
            )
        with ExitStack() as stack:
            _ATTACHED[model] = self
            stack.callback(_ATTACHED.pop, model, None)
            handles = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
            if self._reader is not None:
                handles.append(model.register_forward_hook(self._end, with_kwargs=True))
            for handle in handles:
                stack.callback(handle.remove)
            stack.enter_context(reordered(model, self._where.reorder))
            for router in self.routers.values():
                stack.callback(router.module.register_forward_hook(router.hook).remove)
                RECHOOSE[router.module] = router.rechoose
                stack.callback(RECHOOSE.pop, router.module, None)
            hooks = [(stream.point, stream.layer, stream.change) for stream in self.streams]
            stack.enter_context(attach(model, hooks))
            yield self.effect

    @property
    def by_layer(self) -> Mapping[int, tuple[int, ...]]:
        """By layer the places of those that act on its router."""
        return {layer: router.numbers for layer, router in self.routers.items()}

    def numbers(self, layer: int) -> tuple[int, ...]:
        """Places of those that act on a layer's router among all; empty for none."""
        return self.routers[layer].numbers if layer in self.routers else ()

    def step(self, layer: int) -> RouterStep:
        """What they made of a layer's router in the forward that runs."""
        step = self.routers[layer].step
        assert step is not None  # the router has run
        return step

    def margins(
        self, layer: int, logits_NE: Tensor, active_NI: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """By what a layer's choice was won under them, for logits and what acted."""
        return self.routers[layer].margins(logits_NE, active_NI)

    def begin(self, prompts: Prompts) -> None:
        """A batch begins, of which this is known; else phases are read from the text alone."""
        if self._reader is not None:
            self._reader.begin(prompts)
            self._continued.restart()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        for router in self.routers.values():
            router.has_run = False
        repeats = self.tape.repeats
        if self._reader is not None and not repeats:
            self._continued.begin(kwargs)
        forward = forward_of(args, kwargs, repeats)
        if not repeats:  # a step that is repeated has no drafts
            self._repeated.begin(cache_given(kwargs), forward)
        self._where.begin(forward)

    def _end(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if not self.tape.repeats:
            self._continued.end(kwargs, output)

    def _numbers(self) -> Numbers:
        """Read all counts from the device."""
        counts: dict[tuple[int, int], tuple[int, ...]] = {}
        displaced: dict[tuple[int, int], int] = {}
        gained: dict[tuple[int, int], int] = {}
        differ: dict[int, int] = {}
        for layer, router in self.routers.items():
            found = router.tally.counts if router.tally is not None else None
            if found is None:
                counts |= {(number, layer): (0, 0, 0, 0) for number in router.numbers}
                continue
            each = (found.tokens_I.tolist(), found.changed_I.tolist(), found.barred_I.tolist())
            for number, *three in zip(router.numbers, *each, strict=True):
                counts[number, layer] = (*three, self._where.seen)
            displaced |= _by_expert(layer, found.displaced_E)
            gained |= _by_expert(layer, found.gained_E)
            differ[layer] = int(found.differ)
        for stream in self.streams:
            for number, acted, changed in zip(stream.numbers, *stream.counts, strict=True):
                counts[number, stream.layer] = (acted, changed, 0, self._where.seen)
        return Numbers(counts, displaced, gained, differ, self._repeated.tokens)


@contextmanager
def reordered(model: nn.Module, tell: Callable[[Tensor], None]) -> Iterator[None]:
    """Tell of each step of a beam search which rows are continued.

    ``generate`` asks a model that has a ``_reorder_cache`` to reorder its cache.
    """

    def reorder(cache: Cache, rows_B: Tensor) -> Cache:
        tell(rows_B)
        cache.reorder_cache(rows_B)
        return cache

    model._reorder_cache = reorder  # type: ignore[assignment]
    try:
        yield
    finally:
        del model._reorder_cache


def _streams(
    loaded: LoadedModel,
    numbered: Sequence[tuple[int, Intervention]],
    where: Whereabouts,
    tape: Tape,
) -> Iterator[Stream]:
    """What acts on heads and on the residual stream, by point and layer of this process."""
    others = [(i, act) for i, act in numbered if not isinstance(act, OnRouter)]
    for point in dict.fromkeys(point_of(act) for _, act in others):
        here = [(i, act) for i, act in others if point_of(act) is point]
        for layer in sorted({layer for _, act in here for layer in act.layers or ()}):
            acts = [(i, act) for i, act in here if layer in (act.layers or ())]
            if in_this_process(loaded.model, point, layer):
                yield Stream(point, layer, acts, where, tape)


def _on_router(
    numbered: Sequence[tuple[int, Intervention]], layer: int
) -> Iterator[tuple[int, OnRouter]]:
    for i, act in numbered:
        if isinstance(act, OnRouter) and layer in (act.layers or ()):
            yield i, act


def _by_expert(layer: int, counts_E: Tensor) -> dict[tuple[int, int], int]:
    return {(layer, e): n for e, n in enumerate(counts_E.tolist()) if n}


def _numbered(
    rows: Sequence[Sequence[Intervention]], by_row: bool
) -> tuple[tuple[Intervention, ...], tuple[tuple[int, ...] | None, ...]]:
    """The different interventions, and the rows that each is for."""
    if not by_row:
        return tuple(rows[0]), (None,) * len(rows[0])
    found: dict[Intervention, list[int]] = {}
    for row, acts in enumerate(rows):
        for act in acts:
            found.setdefault(act, []).append(row)
    return tuple(found), tuple(map(tuple, found.values()))
