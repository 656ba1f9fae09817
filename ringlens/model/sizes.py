"""Sizes of a model, and names of its weights: what plans, checks and records need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringlens.model.router_rule import RouterRule

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model, whatever its configuration calls them.

    Attributes:
        layers: Decoder layers.
        sparse_layers: Those that route to experts, ascending.
        hidden_size: Dimensions of the residual stream.
        heads: Attention heads of a layer.
        kv_heads: Key/value heads of a layer.
        head_dim: Dimensions of a head.
        rotary_dim: Rotated dimensions of a head.
        vocabulary: Token ids that the model has.
        positions: Tokens of the context that it was trained for.
        dense_width: Width of a dense feed-forward block.
        expert_width: Width of an expert.
        tied: Whether the output projection shares the embeddings' weight.
        router: How its routers choose.
    """

    layers: int
    sparse_layers: tuple[int, ...]
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dim: int
    vocabulary: int
    positions: int
    dense_width: int
    expert_width: int
    tied: bool
    router: RouterRule

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """Layers without experts, ascending."""
        sparse = set(self.sparse_layers)
        return tuple(layer for layer in range(self.layers) if layer not in sparse)


@dataclass(frozen=True)
class Units:
    """Module paths of what a device map places as a whole, and marks in the paths of weights.

    Attributes:
        embeddings: The token embeddings.
        layers: What the path of each decoder layer begins with, the dot included.
        norm: The final norm.
        rotary: The rotary embedding.
        head: The output projection.
        everywhere: Units that transformers loads in every stage of a pipeline.
        experts: Part of the path of every routed expert.
        attention: Part of the path of everything inside attention.
    """

    embeddings: str
    layers: str
    norm: str
    rotary: str
    head: str
    everywhere: tuple[str, ...]
    experts: str
    attention: str

    def of(self, tensor: str) -> str:
        """The unit that a tensor of a checkpoint is placed with."""
        if tensor.startswith(self.layers):
            return self.layers + tensor.removeprefix(self.layers).partition(".")[0]
        return tensor.removesuffix(".weight")

    def layer(self, unit: str) -> int | None:
        """The layer that a unit is; None for one outside the layers."""
        return int(unit.removeprefix(self.layers)) if unit.startswith(self.layers) else None


@dataclass(frozen=True)
class CheckpointTensors:
    """What the files of a checkpoint must hold.

    Attributes:
        required: Names and shapes of the tensors that must be there.
        together: Names and shapes of those that are there all, or not at all.
        linear: How names of linear layers' weights end: what is published in FP8.
        buffers: How names of tensors end that are no parameters.
    """

    required: Mapping[str, Shape]
    together: Mapping[str, Shape] = field(default_factory=dict)
    linear: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
