"""What a plan follows from: the model, its precision, and what it is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ringlens.errors import ConfigError
from ringlens.model.family import family_of, sizes_of
from ringlens.model.fit.memory import (
    BLOCK_TOKENS,
    RING,
    ROOM,
    Recording,
    Workload,
    activation_bytes,
    cache_bytes,
    decoding_bytes,
    graph_bytes,
    recording_bytes,
)
from ringlens.model.fit.placement import Device, Load, Need
from ringlens.model.fit.size import (
    Precision,
    Size,
    Tensors,
    census,
    measure,
    precision,
    published_quantization,
)
from ringlens.model.kernels.experts import MOST_CHOICES
from ringlens.model.layout import choose_layout
from ringlens.model.quantization import fp8_block
from ringlens.model.sizes import Sizes, Units

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Kept back on each GPU: CUDA context, workspaces of its libraries, fragmentation of the allocator.
RESERVE = 2 * 10**9
# Beside it in each of several processes: communicators and their buffers, a larger context. 4.1 GB
# lay outside PyTorch on two GPUs under torchrun.
RESERVE_PROCESS = 25 * 10**8
# The stage of a forward in which decoding copies experts, and that of a step in a CUDA graph.
DECODING, GRAPH = "decoding experts", "decoding as a graph"
FOUR_BITS = ("nf4", "nf4-double")
BITSANDBYTES = ("int8", *FOUR_BITS)


@dataclass(frozen=True)
class Scenario:
    """Everything that a plan follows from, except the devices.

    Attributes:
        config: The model's configuration.
        tensors: Its census.
        held: How its weights are held.
        layout: Layout of its experts.
        work: What it is to do.
        reserve: Bytes kept back on each GPU.
        splits: Processes that split each expert's width where decoding copies experts; 0 where it
            reads them in place.
        may_graph: Whether decoding may be a CUDA graph as far as places go: a GPU a process, and no
            stages.
    """

    config: PreTrainedConfig
    tensors: list[Tensors]
    held: Precision
    layout: str
    work: Workload
    reserve: int = RESERVE
    splits: int = 1
    may_graph: bool = False

    @cached_property
    def model(self) -> Sizes:
        """Sizes of the model."""
        return sizes_of(self.config)

    @property
    def units(self) -> Units:
        """Names of what is placed as a whole."""
        return self.size.units

    @cached_property
    def size(self) -> Size:
        """Sizes of its weights."""
        return measure(self.config, self.tensors, self.held, self.layout)

    @cached_property
    def cache(self) -> int:
        """Keys and values of one layer, bytes."""
        return cache_bytes(self.config, self._with_room, self.held.item)

    @property
    def _with_room(self) -> Workload:
        """The work, its context as long as the cache of a graph, which grows by steps."""
        if not self.graph:
            return self.work
        return replace(self.work, context=-(-self.work.context // ROOM) * ROOM)

    @cached_property
    def activations(self) -> dict[str, int]:
        """Working memory of each stage of a forward, bytes."""
        item = self.held.item
        stages = activation_bytes(self.config, self.work, item, self.layout, self.size.linear_bytes)
        if self.copies and self.model.sparse_layers:
            stages[DECODING] = decoding_bytes(self.config, self.work, item, self.splits)
        if self.graph:
            linear = self.size.linear_bytes
            stages[GRAPH] = graph_bytes(self.config, self._with_room, item, linear)
        return stages

    @property
    def graph(self) -> bool:
        """Whether decoding steps are repeated as a CUDA graph."""
        if not self.may_graph:
            return False
        if self.held.quantization in FOUR_BITS:
            return self.work.batch * self.model.router.experts_per_token <= MOST_CHOICES
        return self.layout == "fused" and self.held.quantization is None

    @property
    def copies(self) -> bool:
        """Whether decoding copies the chosen experts of each row."""
        return self.layout == "fused" and self.held.quantization is None and self.splits > 0

    @cached_property
    def recording(self) -> Recording:
        """Observation buffers, bytes."""
        # Of a graph a whole ring waits, and the block that is taken out of it.
        steps = RING + BLOCK_TOKENS if self.graph else BLOCK_TOKENS
        return recording_bytes(self.config, self.work, self.held.item, steps)

    @cached_property
    def needs(self) -> dict[str, Need]:
        """What each unit takes in one process."""
        return {unit: self._need(unit, weights) for unit, weights in self.size.weight_bytes.items()}

    def _need(self, unit: str, weights: int) -> Need:
        stages = self.activations
        layer = self.units.layer(unit)
        if layer is None:
            head = self.units.embeddings if self.model.tied else self.units.head
            return Need(weights, working=stages["logits"] if unit == head else 0)
        # Before a graph is laid down, PyTorch gives up the blocks of the prompt's forward.
        attending = max(stages["attention"], stages["head statistics"], stages.get(GRAPH, 0))
        if layer in self.model.sparse_layers:
            # PyTorch keeps the blocks of the prompt's forward; without them it would cut up those
            # of the copies, and the next copies would find no room.
            working = max(attending, stages["experts"]) + stages.get(DECODING, 0)
            return Need(
                weights, self.cache, self.recording.sparse_layer, working, self.size.fusing_bytes
            )
        working = max(attending, stages["dense FFN"])
        return Need(weights, self.cache, self.recording.dense_layer, working)

    def on(self, devices: Sequence[Device]) -> Scenario:
        """Adapt to devices: without a GPU, FP8 is dequantised and nothing copied."""
        gpus = sum(device.is_gpu for device in devices)
        if gpus:
            return replace(self, may_graph=gpus == 1)
        plain = self.plain() if self.held.quantization == "fp8" else self
        return replace(plain, splits=0, may_graph=False)

    def plain(self) -> Scenario:
        """Leave quantisation out."""
        return replace(self, held=precision(None, self.held.dtype))

    def quantized(self, quantization: str | None) -> Scenario:
        """Take another quantisation, in the layout it runs in."""
        held = precision(quantization, self.held.dtype)
        return replace(self, held=held, layout=layout_for(quantization))


def layout_for(quantization: str | None, asked: str | None = None, *, sharded: bool = False) -> str:
    """Choose the layout of the experts that a method runs in, or the one asked for.

    Args:
        quantization: The method.
        asked: "fused", "modules", or None to choose.
        sharded: Whether tensor or expert parallelism splits the experts.

    Raises:
        ConfigError: The layout asked for cannot do it.
    """
    method = "bitsandbytes" if quantization in BITSANDBYTES else quantization
    return choose_layout(asked, method=method, keeps_fp8=quantization == "fp8", sharded=sharded)


def scenario(
    config: PreTrainedConfig,
    *,
    quantization: str | None = None,
    dtype: str = "bfloat16",
    layout: str | None = None,
    work: Workload | None = None,
    reserve: int = RESERVE,
) -> Scenario:
    """Check what is to be planned for.

    Args:
        config: The model's configuration.
        quantization: "nf4", "nf4-double", "int8", "fp8"; None for that of the checkpoint.
        dtype: dtype of what is not quantised.
        layout: Layout of the experts; None for the one that the method needs.
        work: What the model is to do.
        reserve: Bytes to keep back on each GPU.

    Raises:
        ConfigError: A method that this checkpoint cannot be loaded in, or a value out of range.
    """
    published = published_quantization(config)
    if published and quantization not in (None, published):
        raise ConfigError(
            f"this checkpoint is published in {published}, and cannot be loaded in "
            f"{quantization!r}. Plan for the 16-bit checkpoint instead, or leave quantization out."
        )
    method = quantization or published
    held = precision(method, dtype, fp8_block(config))
    return Scenario(
        config,
        census(config),
        held,
        layout_for(method, layout),
        work or Workload(),
        reserve,
        splits=0 if family_of(config).in_place else 1,
    )


def empty_loads(s: Scenario, devices: Sequence[Device]) -> list[Load]:
    """List the devices before anything is placed; without a GPU, buffers stand in main memory."""
    return [Load(d, s.reserve if d.is_gpu else s.recording.host_alone) for d in devices]
