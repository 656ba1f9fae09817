"""Merging: what dropped experts knew goes into kept ones (after REAM, arXiv 2604.04356).

Each dropped expert joins the kept expert of its group whose router row is most like its own: their
tokens are most alike, and the group limit keeps them together. The experts of such a family are
averaged by how much they gave. The neurons of an expert have no order of their own, so each neuron
is first matched with the one most like it.

Shape letters: E experts, D hidden size, F neurons of an expert.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ringlens.analysis.load.expert_importance import expert_importance
from ringlens.config import refuse_unknown
from ringlens.errors import CheckpointError
from ringlens.model.loading import model_name
from ringlens.prune.plan import PruningPlan
from ringlens.prune.source import Source, open_source
from ringlens.prune.tensor_file import Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ringlens.store.read.selection import Source as Rows

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
SCALE = "_scale_inv"
"""What the name of the scales of an FP8 weight ends with, beside the weight's."""


@refuse_unknown
def with_merging(
    plan: PruningPlan, store: Rows, *, model: str | os.PathLike[str] | None = None
) -> PruningPlan:
    """Say which kept expert each dropped one is merged into, and with what share.

    Args:
        plan: The plan.
        store: The store that ranked the experts; shares follow Σ w·‖f‖, or Σ w where nothing
            recorded `expert_outputs`.
        model: The checkpoint, for the rows of its routers; None for the one that the plan names.

    Returns:
        The plan with ``merged``.

    Raises:
        StoreError: The store cannot answer.
        CheckpointError: The checkpoint is malformed, or a router's rows cannot be read.
    """
    source = open_source(model_name(plan.model if model is None else model))
    table = expert_importance(store, plan.where)
    gave = table["n"] * table["reap"] if table["reap"].notna().all() else table["weight"]
    gave_LE = table.assign(gave=gave).pivot(index="layer", columns="expert", values="gave")
    merged = {
        layer: _families(plan, layer, _router_rows(source, layer), gave_LE.loc[layer].to_numpy())
        for layer in plan.layers
    }
    return replace(plan, merged=merged)


def _families(
    plan: PruningPlan, layer: int, row_ED: Tensor, gave_E: NDArray[np.float64]
) -> dict[int, tuple[int, float]]:
    """For each dropped expert: the kept one, and the share of the dropped in their average."""
    # All rows share a direction, in which no two experts differ.
    unit_ED = torch.nn.functional.normalize(row_ED - row_ED.mean(dim=0), dim=1)
    alike_EE = (unit_ED @ unit_ED.T).numpy()
    size, kept = plan.experts // plan.groups, np.array(plan.kept[layer])
    joins: dict[int, int] = {}
    for expert in plan.dropped(layer):
        there = kept[kept // size == expert // size]
        joins[expert] = int(there[np.argmax(alike_EE[expert, there])])
    whole = {k: gave_E[k] + sum(gave_E[e] for e, to in joins.items() if to == k) for k in kept}
    return {e: (k, float(gave_E[e] / whole[k]) if whole[k] else 0.0) for e, k in joins.items()}


def _router_rows(source: Source, layer: int) -> Tensor:
    """The rows of a layer's router, float32 [E, D]."""
    for held in source.files.values():
        for name, span in held.items():
            found = source.names.rows.fullmatch(name)
            if found and int(found["layer"]) == layer and len(span.shape) == 2:
                return read_tensor(span).float()
    raise CheckpointError(f"{source.folder} has no router weight of layer {layer}.")


def read_tensor(span: Span) -> Tensor:
    """Read a tensor of a file.

    Raises:
        CheckpointError: Its dtype is none that can be averaged.
    """
    if span.dtype not in DTYPES:
        raise CheckpointError(
            f"{span.file} holds weights in {span.dtype}, which cannot be averaged: merge a "
            "checkpoint in 16 bits or FP8, or leave merging out."
        )
    data = bytearray(b"".join(span.chunks()))
    return torch.frombuffer(data, dtype=DTYPES[span.dtype]).view(span.shape)


@dataclass
class Merger:
    """Averages families of experts, one at a time.

    Attributes:
        experts: Tensors of every expert of every layer, by the end of their names.
        neurons: Which dimension of a weight counts its neurons, by the end of its name.
        block: Rows and columns of an FP8 weight that share a scale.
    """

    experts: Mapping[tuple[int, int], Mapping[str, Span]]
    neurons: Mapping[str, int]
    block: tuple[int, int]
    _last: tuple[tuple[int, int], dict[str, Tensor]] | None = field(default=None, repr=False)

    def tensors(self, layer: int, members: Mapping[int, float]) -> dict[str, Tensor]:
        """Average the members, in the order of the first one's neurons.

        Args:
            layer: The layer.
            members: The kept expert, then the dropped ones, each with its share.

        Returns:
            Its tensors as they are stored, by the end of their names.
        """
        (first, share), *others = members.items()
        if self._last is not None and self._last[0] == (layer, first):
            return self._last[1]
        whole = self._read(layer, first)
        mixed = {tail: share * weight for tail, weight in whole.items()}
        for expert, part in others:
            other = self._read(layer, expert)
            order_F = matched(self._neurons(whole), self._neurons(other))
            for tail, weight in other.items():
                mixed[tail] += part * weight.index_select(self.neurons[tail], order_F)
        stored = self._stored(mixed, self.experts[layer, first])
        self._last = ((layer, first), stored)
        return stored

    def _read(self, layer: int, expert: int) -> dict[str, Tensor]:
        """The weights of an expert, float32."""
        held = self.experts[layer, expert]
        return {tail: self._dequantised(held, tail) for tail in self.neurons}

    def _dequantised(self, held: Mapping[str, Span], tail: str) -> Tensor:
        weight = read_tensor(held[tail]).float()
        if f"{tail}{SCALE}" not in held:
            return weight
        scale = read_tensor(held[f"{tail}{SCALE}"]).float()
        return weight * _spread(scale, weight.shape, self.block)

    def _neurons(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Each neuron as one vector [F, …], of length 1."""
        rows = [w if self.neurons[tail] == 0 else w.T for tail, w in weights.items()]
        return torch.nn.functional.normalize(torch.cat(rows, dim=1), dim=1)

    def _stored(self, weights: Mapping[str, Tensor], held: Mapping[str, Span]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for tail, weight in weights.items():
            dtype = DTYPES[held[tail].dtype]
            if (scales := held.get(f"{tail}{SCALE}")) is None:
                found[tail] = weight.to(dtype)
                continue
            scale = _scales(weight, self.block)
            found[tail] = (weight / _spread(scale, weight.shape, self.block)).to(dtype)
            found[f"{tail}{SCALE}"] = scale.to(DTYPES[scales.dtype])
        return found


def _scales(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """Scales of an FP8 weight's blocks: the largest magnitude of each becomes FP8's largest."""
    rows, columns = (ceil(n / b) for n, b in zip(weight.shape, block, strict=True))
    room = (0, columns * block[1] - weight.shape[1], 0, rows * block[0] - weight.shape[0])
    padded = torch.nn.functional.pad(weight, room)
    largest = padded.view(rows, block[0], columns, block[1]).abs().amax(dim=(1, 3))
    return (largest / torch.finfo(torch.float8_e4m3fn).max).clamp(min=1e-12)


def _spread(scale: Tensor, shape: tuple[int, ...], block: tuple[int, int]) -> Tensor:
    """Each block's scale at every one of its weights."""
    tall = scale.repeat_interleave(block[0], dim=0)[: shape[0]]
    return tall.repeat_interleave(block[1], dim=1)[:, : shape[1]]


def matched(first_FX: Tensor, other_FX: Tensor) -> Tensor:
    """Match neurons, the most similar pairs first.

    Args:
        first_FX: Neurons whose order counts, unit vectors.
        other_FX: Those that are matched to them.

    Returns:
        For each neuron of the first, the index of its match [F]; each is matched once.
    """
    alike_FF = first_FX @ other_FX.T
    match_F = torch.full((len(alike_FF),), -1)
    free, open_ = torch.arange(len(alike_FF)), torch.arange(len(alike_FF))
    while len(free):
        # Pairs that are each other's best are those that a search for the best pair would take.
        left = alike_FF[free][:, open_]
        best, back = left.argmax(dim=1), left.argmax(dim=0)
        mutual = back[best] == torch.arange(len(free))
        match_F[free[mutual]] = open_[best[mutual]]
        taken = torch.zeros(len(open_), dtype=torch.bool)
        taken[best[mutual]] = True
        free, open_ = free[~mutual], open_[~taken]
    return match_F


@dataclass(frozen=True)
class Merged:
    """The bytes of one tensor of a merged expert."""

    merger: Merger
    layer: int
    members: Mapping[int, float]
    tail: str

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        tensor = self.merger.tensors(self.layer, self.members)[self.tail].contiguous()
        if prod(tensor.shape):
            yield tensor.view(torch.uint8).numpy().tobytes()
