"""Experts in 4 bits for a few tokens: one launch reads the bytes of all that are chosen.

As modules they are called one by one: at Ring-1T's size three matrices each, expanded before they
are multiplied, and the device is asked which were chosen. Where they lie is looked up once; who
moves, replaces or hooks an expert is noticed, and gets the modules called as ever.

Shape letters: N tokens, k experts a token, S = N·k choices, E experts, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ringlens.model.kernels.triton_available import triton_installed

if TYPE_CHECKING:
    from ringlens.model.kernels.nf4_triton import Packed

KEPT = "ringlens_packed"
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
# Addresses of bytes that a kernel loads this many at a time.
ALIGNED = 16
# Numbers of a word: rows are whole words.
EIGHT = 8


@dataclass(frozen=True)
class _Look:
    """What the experts were when they were looked at.

    Attributes:
        owner: Their module's identity; a copy of it has weights elsewhere.
        weights: Their parameters.
        holders: Where each was found.
        hooks: What is empty unless somebody hooks a module.
        spaces: Attributes of each module.
        forwards: The forward among them that a module was given, as accelerate gives one.
        packed: Where they lie; None: the kernels cannot compute them.
    """

    owner: int
    weights: Sequence[nn.Parameter | None]
    holders: Sequence[Mapping[str, nn.Parameter | None]]
    hooks: Sequence[Mapping[int, Any]]
    spaces: Sequence[Mapping[str, Any]]
    forwards: Sequence[Any]
    packed: Packed | None

    def holds(self, experts: nn.ModuleList) -> bool:
        """Whether they are still the same; lists compare what they hold by identity first."""
        return (
            self.owner == id(experts)
            and all(w is h["weight"] for w, h in zip(self.weights, self.holders, strict=True))
            and all(s.get("forward") is f for s, f in zip(self.spaces, self.forwards, strict=True))
        )


def packed_of(experts: nn.ModuleList) -> Packed | None:
    """Where a layer's experts lie in 4 bits; None where their modules must be called.

    Args:
        experts: Modules with a gate, an up and a down projection each.
    """
    look = experts.__dict__.get(KEPT)
    if look is None or not look.holds(experts):
        look = experts.__dict__[KEPT] = _look_at(experts)
    return None if any(look.hooks) else look.packed


def forget(experts: nn.ModuleList) -> None:
    """Look again next time: weights were moved."""
    experts.__dict__.pop(KEPT, None)


def mixed_in_4_bits(
    packed: Packed, hidden_ND: Tensor, ids_Nk: Tensor, weights_Nk: Tensor, show: Any = None
) -> Tensor:
    """Sum of w·expert(h) over the chosen experts, [N, D].

    Args:
        packed: Where the experts lie.
        hidden_ND: Hidden states.
        ids_Nk: Chosen experts, few enough for `ringlens.model.kernels.experts.are_few`.
        weights_Nk: Their weights.
        show: Sees the outputs [S, D] before they are weighed, if given.
    """
    from ringlens.model.kernels.experts_triton import mixed
    from ringlens.model.kernels.nf4_triton import outputs_in_4_bits

    output_SD = outputs_in_4_bits(hidden_ND, ids_Nk, packed)
    if show is not None:
        show(output_SD, torch.arange(len(output_SD), device=output_SD.device))
    return mixed(output_SD, weights_Nk)


def _look_at(experts: nn.ModuleList) -> _Look:
    linears: list[Any] = [getattr(expert, name) for expert in experts for name in PROJECTIONS]
    modules = [module for expert in experts for module in expert.modules()]
    spaces = [vars(module) for module in modules]
    own = all(_is_own(space.get("forward")) for space in spaces)
    return _Look(
        owner=id(experts),
        weights=[linear.weight for linear in linears],
        holders=[linear._parameters for linear in linears],
        hooks=[hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)],
        spaces=spaces,
        forwards=[space.get("forward") for space in spaces],
        packed=_pack(experts, linears) if own and triton_installed() else None,
    )


def _is_own(forward: Any) -> bool:
    """Whether a forward that a module was given computes what its class's does: accelerate's."""
    inner = getattr(forward, "func", None)
    return forward is None or getattr(inner, "__module__", None) == "accelerate.hooks"


def _pack(experts: nn.ModuleList, linears: Sequence[Any]) -> Packed | None:
    """The addresses of all, if the kernels compute what the modules do."""
    if not linears or any(_unlike(linear, linears[0]) for linear in linears):
        return None
    silu = all(isinstance(e.act_fn, nn.SiLU | type(ACT2FN["silu"])) for e in experts)
    first = linears[0].weight.quant_state
    width, hidden = first.shape
    shapes = [tuple(linear.weight.quant_state.shape) for linear in linears]
    fits = shapes == [(width, hidden), (width, hidden), (hidden, width)] * len(experts)
    if not silu or not fits or width % EIGHT or hidden % EIGHT:
        return None
    from ringlens.model.kernels.nf4_triton import Packed

    addresses = [list(_addresses(linear.weight)) for linear in linears]
    if any(row[0] % ALIGNED for row in addresses):
        return None
    table = torch.tensor(addresses, dtype=torch.int64, device=linears[0].weight.device)
    return Packed(
        addresses_E3A=table.view(len(experts), len(PROJECTIONS), -1),
        code=first.code,
        scale_code=first.state2.code if first.nested else None,
        block=first.blocksize,
        hidden=hidden,
        width=width,
        dtype=first.dtype,
    )


def _unlike(linear: Any, first: Any) -> bool:
    """Whether a projection is none that the kernels read, or of another kind than the first."""
    from ringlens.model.kernels.nf4_triton import SCALES_A_SCALE

    weight, state = linear.weight, getattr(linear.weight, "quant_state", None)
    if state is None or not weight.is_cuda or weight.dtype != torch.uint8:
        return True
    if linear.bias is not None or not weight.is_contiguous():
        return True
    if linear.compute_dtype not in (None, state.dtype):
        return True
    if state.nested and (state.state2.blocksize != SCALES_A_SCALE.value or state.state2.nested):
        return True
    known = getattr(first.weight, "quant_state", state)
    alike = ("quant_type", "blocksize", "dtype", "nested")
    return weight.device != first.weight.device or any(
        getattr(state, name) != getattr(known, name) for name in alike
    )


def _addresses(weight: Any) -> Iterator[int]:
    """Of a weight's bytes and scales; of scales that are bytes, their scales and their mean too."""
    state = weight.quant_state
    yield weight.data_ptr()
    yield state.absmax.data_ptr()
    yield state.state2.absmax.data_ptr() if state.nested else 0
    yield state.offset.data_ptr() if state.nested else 0
