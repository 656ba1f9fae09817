"""Watches the routers: what each chose and why, layer by layer.

Shape letters: B batch, T tokens of a forward, t positions of a block, N = B·t, E experts, k experts
a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ringlens.model.kernels.triton_available import triton_installed
from ringlens.model.router_rule import RouterRule
from ringlens.observe.instruments.base import Asked, Instrument, Kind, TraceRows, Watched
from ringlens.observe.instruments.sent_layers import SentLayers
from ringlens.observe.instruments.transfer import Tensors
from ringlens.observe.kernels.router import (
    RouterRecord,
    contains,
    has_kernel,
    refuse_other_choice,
    refuse_other_run,
    rounded_logits,
    storable_logits,
    tie_margins,
    torch_record,
    unrounded_logits,
)
from ringlens.observe.points import gate, live_selection_bias, router_items
from ringlens.store.schema.instruments import layers_asked
from ringlens.store.schema.records import ActedArrays, RoutingArrays

if TYPE_CHECKING:
    pass

FIELDS = (
    "expert_ids",
    "weights",
    "affinities",
    "margin",
    "group_margin",
    "bias_flips",
    "unlimited_ids",
    "group_flips",
    "entropy",
)
ACTED = ("own_ids", "own_weights", "differs", "intervened")


class RoutingInstrument(SentLayers):
    """Hooks on the routers of some layers.

    Args:
        watched: The model, and what of it is watched.
        choices: Layers of which the choices are kept.
        logits: Layers of which the router logits are kept.
    """

    def __init__(self, watched: Watched, choices: tuple[int, ...], logits: tuple[int, ...]) -> None:
        super().__init__(watched.tape)
        model, layers = watched.model, sorted({*choices, *logits})
        self.router, self.choices, self.logits = watched.loaded.router, choices, logits
        self.transfer = watched.transfer
        self._gates = {layer: gate(model, layer) for layer in layers}
        self._biases = {layer: live_selection_bias(model, layer) for layer in layers}
        self._items = router_items(model.config)
        acting = watched.acting
        self._acting = acting
        acts = {layer: acting.numbers(layer) if acting is not None else () for layer in layers}
        self._acted = frozenset(layer for layer in layers if acts[layer])
        self._most = max(map(len, acts.values()), default=0)

    def attach(self) -> list[Any]:
        """Hook the routers; returns handles to remove."""
        return [
            module.register_forward_hook(self._routed(layer))
            for layer, module in self._gates.items()
        ]

    def _routed(self, layer: int) -> Callable[[nn.Module, tuple, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> None:
            acted = self._step(layer) if layer in self._acted else ()
            self._see(layer, *(output[item] for item in self._items), *acted)

        return hook

    def _step(self, layer: int) -> tuple[Tensor, ...]:
        """What interventions made of a router that has just run."""
        assert self._acting is not None
        step = self._acting.step(layer)
        own = step.own_weights_Nk, step.own_ids_Nk
        return *own, step.ids_Nk, step.active_NI

    def _send(self, layer: int) -> None:
        compute = partial(routing_fields, self.router, layer in self.logits)
        if layer in self._acted:
            assert self._acting is not None
            won = partial(self._acting.margins, layer) if layer in self.logits else None
            compute = partial(acted_fields, self._most, won, self.router)
        finish = partial(checked_fields, self.router)
        if layer not in self.choices:
            finish = partial(logits_alone, self.router)
        seen, bias_E = self._seen.pop(layer), self._biases[layer]
        self._sent[layer] = self.transfer.send(
            partial(compute, self._shapes.pop(layer)),
            bias_E.to(seen[0].device),
            *seen,
            finish=finish,
        )


def routing_fields(
    rule: RouterRule,
    logits: bool,
    shapes: list[tuple[int, int]],
    bias_E: Tensor,
    *seen: Tensor,
) -> Tensors:
    """The router record of a block, each field [B, t, …].

    Args:
        rule: How the router chooses.
        logits: Whether to keep the logits.
        shapes: (B, T) of each forward.
        bias_E: Selection bias; not looked at where the rule has none.
        *seen: Logits, weights and ids of each forward in turn, [B·T, E] and [B·T, k].
    """
    z_BtE, weights_Btk, ids_Btk = (joined(seen[i::3], shapes) for i in range(3))
    shape = z_BtE.shape[:2]
    z_NE, weights_Nk, ids_Nk = (x.flatten(0, 1) for x in (z_BtE, weights_Btk, ids_Btk))
    record = record_of(z_NE, weights_Nk, ids_Nk, bias_E, rule)
    id_type = torch.uint8 if rule.experts <= 256 else torch.int32
    fields = _fields(record, id_type)
    if logits:
        fields["logits"], fields["doubtful"] = rounded_logits(
            z_NE, record.margin_N, record.group_margin_N, rule
        )
    return {name: x.unflatten(0, shape) for name, x in fields.items()} | {"bias": bias_E}


def acted_fields(
    most: int,
    won: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None] | None,
    rule: RouterRule,
    shapes: list[tuple[int, int]],
    bias_E: Tensor,
    *seen: Tensor,
) -> Tensors:
    """`routing_fields` of a router that interventions act on: what ran, and its own choice.

    Args:
        most: The most interventions that act on a layer.
        won: Given logits and what acted, by what the choice was won; None if no logits are kept.
        rule: How the router chooses.
        shapes: (B, T) of each forward.
        bias_E: Selection bias.
        *seen: Of each forward in turn logits, weights and ids as they ran; weights and ids as the
            router gave them; the ids that were to run, and the interventions that acted.
    """
    every = [joined(seen[i::7], shapes) for i in range(7)]
    shape = every[0].shape[:2]
    z_NE, ran_Nk, ids_Nk, own_Nk, own_ids_Nk, meant_Nk, active_NI = (x.flatten(0, 1) for x in every)
    ran, own = (
        record_of(z_NE, weights_Nk, chosen_Nk, bias_E, rule)
        for weights_Nk, chosen_Nk in ((ran_Nk, ids_Nk), (own_Nk, own_ids_Nk))
    )
    id_type = torch.uint8 if rule.experts <= 256 else torch.int32
    moved_N = (ran.expert_ids_Nk != own.expert_ids_Nk).any(dim=-1)
    reweighed_N = (ran.weights_Nk.half() != own.weights_Nk.half()).any(dim=-1)
    its_own_Nk = contains(ran.expert_ids_Nk, own.expert_ids_Nk)
    fields = {
        **_fields(ran, id_type),
        "bias_flips": ran.bias_flips_Nk & its_own_Nk,
        "same": own.same_N,
        "ran_as_meant": (ids_Nk == meant_Nk).all(dim=-1),
        "own_ids": own.expert_ids_Nk.to(id_type),
        "own_weights": own.weights_Nk.half(),
        "differs": moved_N | reweighed_N,
        "intervened": torch.nn.functional.pad(active_NI, (0, most - active_NI.shape[1])),
    }
    if won is not None:
        least_N, least_group_N = ran.margin_N, ran.group_margin_N
        if (margins := won(z_NE, active_NI)) is not None:
            least_N = torch.minimum(least_N, margins[0].to(least_N))
            least_group_N = torch.minimum(least_group_N, margins[1].to(least_group_N))
        fields["logits"], fields["doubtful"] = rounded_logits(z_NE, least_N, least_group_N, rule)
    return {name: x.unflatten(0, shape) for name, x in fields.items()} | {"bias": bias_E}


def _fields(record: RouterRecord, id_type: torch.dtype) -> Tensors:
    """What of a record is sent, [N, …]."""
    return {
        "expert_ids": record.expert_ids_Nk.to(id_type),
        "weights": record.weights_Nk.half(),
        "affinities": record.affinities_Nk,
        "margin": record.margin_N,
        "group_margin": record.group_margin_N,
        "bias_flips": record.bias_flips_Nk,
        "unlimited_ids": record.unlimited_ids_Nk.to(id_type),
        "group_flips": record.group_flips_Nk,
        "entropy": record.entropy_N,
        "same": record.same_N,
    }


def record_of(
    logits_NE: Tensor, weights_Nk: Tensor, ids_Nk: Tensor, bias_E: Tensor, rule: RouterRule
) -> RouterRecord:
    """The router record by the kernel that there is for this rule and device."""
    if logits_NE.is_cuda and has_kernel(rule) and triton_installed():
        from ringlens.observe.kernels.router_triton import record_rows

        return record_rows(logits_NE, weights_Nk, ids_Nk, bias_E, rule)
    return torch_record(logits_NE, weights_Nk, ids_Nk, bias_E, rule)


def joined(seen: Sequence[Tensor], shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Tensors [B·T, …] of forwards that follow one another as [B, t, …]."""
    if all(T == 1 for _, T in shapes):
        return torch.stack(list(seen), dim=1)
    return torch.cat([x.unflatten(0, shape) for x, shape in zip(seen, shapes, strict=True)], 1)


def checked_fields(rule: RouterRule, fields: Tensors) -> Tensors:
    """On the host: refuse a choice that is not this router's; make the logits storable.

    Raises:
        ObservationError: A choice does not follow from its logits.
    """
    shape, bias_E = fields["margin"].shape, fields.pop("bias").float()
    flat = {name: x.flatten(0, 1) for name, x in fields.items()}
    margin_N, group_margin_N = flat["margin"], flat["group_margin"]
    if bias_E.isnan().any():  # then the order of the scores means nothing
        margin_N.fill_(torch.nan)
    acted = "own_ids" in flat
    same_N, ids_Nk = flat.pop("same"), flat["own_ids" if acted else "expert_ids"].long()
    least_N = flat["affinities"].amin(dim=-1)
    if acted:
        refuse_other_run(flat.pop("ran_as_meant"), flat["expert_ids"])
        flat["own_weights"] = flat["own_weights"].float()
    refuse_other_choice(same_N, tie_margins(margin_N, group_margin_N, least_N, rule), ids_Nk)
    flat["weights"] = flat["weights"].float()
    if "logits" in flat:
        rows, logits_NE = flat.pop("doubtful").nonzero().flatten(), flat["logits"]
        storable = unrounded_logits if acted else storable_logits
        logits_NE[rows] = storable(logits_NE[rows], ids_Nk[rows], bias_E, rule)
    return {name: x.unflatten(0, shape) for name, x in flat.items()}


def logits_alone(rule: RouterRule, fields: Tensors) -> Tensors:
    """On the host: the logits, checked and storable, of a layer whose choices are not kept.

    Raises:
        ObservationError: A choice does not follow from its logits.
    """
    return {"logits": checked_fields(rule, fields)["logits"]}


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    choices, logits = (
        layers_asked(name, asked, watched.sparse_layers) for name in ("routing", "router_logits")
    )
    if choices or logits:
        yield "routing", RoutingInstrument(watched, choices, logits)


def _to_record(rows: TraceRows, asked: Asked) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    if rows.has("routing", "margin"):
        columns: dict[str, Any] = {name: rows.take("routing", name)[1] for name in FIELDS}
        routing = RoutingArrays(rows.layers("routing", "margin"), **columns)
        found["routing"] = replace(routing, acted=_acted(rows, routing))
    if rows.has("routing", "logits"):
        found["router_logits"] = rows.take("routing", "logits")[1]
        found["logit_layers"] = rows.layers("routing", "logits")
    return found


def _acted(rows: TraceRows, routing: RoutingArrays) -> ActedArrays | None:
    """What interventions changed, of all layers; None in a run without any."""
    if rows.interventions is None:
        return None
    S, T = routing.margin.shape
    most = max(map(len, rows.interventions.values()), default=0)
    found = ActedArrays(
        own_ids=routing.expert_ids.copy(),
        own_weights=routing.weights.copy(),
        differs=np.zeros((S, T), bool),
        intervened=np.zeros((S, T, most), bool),
        numbers=np.zeros((S, most), np.uint16),
    )
    if not rows.has("routing", "own_ids"):
        return found
    taken = {name: rows.take("routing", name)[1] for name in ACTED}
    for place, layer in enumerate(rows.layers("routing", "own_ids")):
        at, numbers = routing.layers.index(layer), rows.interventions[layer]
        for name, values in taken.items():
            if name != "intervened":
                getattr(found, name)[at] = values[place]
        found.intervened[at, :, : len(numbers)] = taken["intervened"][place][:, : len(numbers)]
        found.numbers[at, : len(numbers)] = numbers
    return found


KIND = Kind(_make, _to_record)
