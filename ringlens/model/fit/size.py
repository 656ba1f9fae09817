"""How large a model is, from its configuration alone: parameters by kind, bytes in memory.

Nothing is loaded or built: names and shapes are those that the model's family tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError
from ringlens.model.family import Family, family_of, sizes_of
from ringlens.model.sizes import Shape, Units

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

KINDS = ("experts", "shared experts", "attention", "dense FFN", "router", "embeddings", "norms")
DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
QUANTIZATIONS = ("nf4", "nf4-double", "int8", "fp8")
# What every method leaves in the dtype of the model (biases of every kind aside).
KEPT = ("embeddings", "lm_head", "router", "norms")
QUANTIZED = ("experts", "shared experts", "attention", "dense FFN")
# bitsandbytes' block sizes: weights that share one absmax, and absmaxes that share one of theirs;
# and the bytes of the tables of values that it keeps beside each weight: 16, and 256 for absmaxes.
NF4_BLOCK, ABSMAX_BLOCK = 64, 256
NF4_TABLE, ABSMAX_TABLE = 4 * 16, 4 * 256


@dataclass(frozen=True)
class Precision:
    """How weights are held.

    Attributes:
        name: "bfloat16", …, or the method that quantises linear layers.
        dtype: dtype of what is not quantised.
        weight: Bytes of one linear layer's weight of the given shape.
        seen: Bytes for each weight that transformers counts when it makes a device map.
        quantization: "nf4", "nf4-double", "int8", "fp8", or None.
    """

    name: str
    dtype: str
    weight: Callable[[Shape], int]
    seen: Callable[[Shape], float]
    quantization: str | None

    @property
    def item(self) -> int:
        """Bytes of a number that is not quantised."""
        return DTYPES[self.dtype]


def precision(
    quantization: str | None = None, dtype: str = "bfloat16", block: tuple[int, int] = (128, 128)
) -> Precision:
    """Describe the precision of a method.

    Sources: bitsandbytes keeps a float32 absmax for 64 nf4 weights; double quantisation makes it
    8 bits and adds a float32 for 256 of those, so 0.127 bits a weight instead of 0.5. Its int8
    keeps a float32 for each output row. FP8 checkpoints keep a float32 for each block of weights.

    Raises:
        ConfigError: An unknown method or dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype = {dtype!r}; it must be {', '.join(DTYPES)}.")
    item = DTYPES[dtype]
    if quantization is None:
        return Precision(dtype, dtype, lambda s: prod(s) * item, lambda s: prod(s) * item, None)
    if quantization not in QUANTIZATIONS:
        raise ConfigError(
            f"quantization = {quantization!r}; it must be {', '.join(QUANTIZATIONS)}, or left out."
        )

    def nf4(shape: Shape) -> int:
        return ceil(prod(shape) / 2) + 4 * ceil(prod(shape) / NF4_BLOCK) + NF4_TABLE

    def nf4_double(shape: Shape) -> int:
        blocks = ceil(prod(shape) / NF4_BLOCK)
        scales = blocks + 4 * ceil(blocks / ABSMAX_BLOCK) + 4  # 8 bits, their absmax, an offset
        return ceil(prod(shape) / 2) + scales + NF4_TABLE + ABSMAX_TABLE

    def int8(shape: Shape) -> int:
        return prod(shape) + 4 * shape[0]

    def fp8(shape: Shape) -> int:
        return prod(shape) + 4 * ceil(shape[0] / block[0]) * ceil(shape[1] / block[1])

    weight = {"nf4": nf4, "nf4-double": nf4_double, "int8": int8, "fp8": fp8}[quantization]
    seen = {"int8": lambda s: prod(s), "fp8": fp8}.get(quantization, lambda s: prod(s) / 2)
    return Precision(quantization, dtype, weight, seen, quantization)


def published_quantization(config: PreTrainedConfig) -> str | None:
    """Name the method a checkpoint is published in; None for 16 or 32 bits.

    Raises:
        ConfigError: A method that ringlens does not know.
    """
    stated: dict[str, Any] = getattr(config, "quantization_config", None) or {}
    if not stated:
        return None
    method = stated.get("quant_method")
    if method == "fp8":
        return "fp8"
    if method == "bitsandbytes" and stated.get("load_in_4bit"):
        return "nf4-double" if stated.get("bnb_4bit_use_double_quant") else "nf4"
    if method == "bitsandbytes" and stated.get("load_in_8bit"):
        return "int8"
    raise ConfigError(
        f"quant_method = {method!r} in the model's config.json; ringlens can plan for fp8 and "
        "bitsandbytes checkpoints, and for those in 16 or 32 bits."
    )


@dataclass(frozen=True)
class Size:
    """Size of a model.

    Attributes:
        parameters: Parameters by kind.
        active: Parameters that take part in one token: all but the experts that its router does not
            choose. The whole embedding table counts, as it does in published figures.
        weight_bytes: Bytes by unit (the embeddings, each decoder layer, …), buffers
            included, in the order in which a device map is filled.
        seen_bytes: The same as transformers counts them when it makes a device map.
        expert_bytes: Of those, routed experts: what expert parallelism shares out.
        whole_bytes: Of those, routers, norms and buffers: what no parallelism shares out.
        fusing_bytes: What loading needs beside the weights while it builds the largest fused
            ``gate_up_proj`` from its experts; 0 where nothing is fused.
        linear_bytes: The largest linear layer in the model's dtype: what dequantising holds.
        units: Names of the units.
    """

    parameters: dict[str, int]
    active: int
    weight_bytes: dict[str, int]
    seen_bytes: dict[str, float]
    expert_bytes: dict[str, int]
    whole_bytes: dict[str, int]
    fusing_bytes: int
    linear_bytes: int
    units: Units

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def bytes(self) -> int:
        """Bytes of all weights and buffers."""
        return sum(self.weight_bytes.values())


@dataclass(frozen=True)
class Tensors:
    """Tensors of one kind, unit and shape, and how many of them there are."""

    kind: str
    unit: str
    shape: Shape
    count: int


def census(config: PreTrainedConfig) -> list[Tensors]:
    """Count the parameters of a model, alike ones together."""
    family = family_of(config)
    tensors = family.tensors(config)
    alike: Counter[tuple[str, str, Shape]] = Counter()
    for name, shape in tensors.required.items():
        if not name.endswith(tensors.buffers):
            alike[_kind_of(name, family), family.units.of(name), shape] += 1
    return [Tensors(*key, count) for key, count in alike.items()]


def _kind_of(name: str, family: Family) -> str:
    """Tell the kind of a tensor by its name in a checkpoint."""
    return next(kind for mark, kind in family.kinds if mark in name)


def measure(
    config: PreTrainedConfig, tensors: list[Tensors], held: Precision, layout: str = "fused"
) -> Size:
    """Measure a model in a precision and a layout of its experts.

    Args:
        config: The model's configuration.
        tensors: Its census.
        held: How its weights are held.
        layout: "fused" or "modules".
    """
    parameters: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
    family, model = family_of(config), sizes_of(config)
    buffers = family.buffers(config)
    weights: dict[str, int] = {unit: buffers.get(unit, 0) for unit in units(config)}
    seen: dict[str, float] = dict(weights)
    experts, whole = dict.fromkeys(weights, 0), dict(weights)
    linear = 0
    for t in tensors:
        quantized = t.kind in QUANTIZED and len(t.shape) == 2
        plain = prod(t.shape) * held.item
        parameters[t.kind] += t.count * prod(t.shape)
        size = t.count * (held.weight(t.shape) if quantized else plain)
        weights[t.unit] += size
        experts[t.unit] += size if t.kind == "experts" else 0
        whole[t.unit] += size if t.kind in ("router", "norms") else 0
        seen[t.unit] += t.count * (held.seen(t.shape) if quantized else plain)
        linear = max(linear, plain if quantized else 0)
    chosen = parameters["experts"] * model.router.experts_per_token // model.router.experts
    return Size(
        parameters=dict(parameters),
        active=sum(parameters.values()) - parameters["experts"] + chosen,
        weight_bytes=weights,
        seen_bytes=seen,
        expert_bytes=experts,
        whole_bytes=whole,
        fusing_bytes=_fusing_bytes(config, held) if layout == "fused" else 0,
        linear_bytes=linear if held.quantization else 0,
        units=family.units,
    )


def units(config: PreTrainedConfig) -> list[str]:
    """List what is placed as a whole, in the order of the model's modules."""
    model, named = sizes_of(config), family_of(config).units
    layers = [f"{named.layers}{layer}" for layer in range(model.layers)]
    head = [] if model.tied else [named.head]
    return [named.embeddings, *layers, named.norm, named.rotary, *head]


def _fusing_bytes(config: PreTrainedConfig, held: Precision) -> int:
    """Count one layer's gate and up projections, which stand beside the fused parameter."""
    model = sizes_of(config)
    if not model.sparse_layers:
        return 0
    return 2 * model.router.experts * held.weight((model.expert_width, model.hidden_size))
