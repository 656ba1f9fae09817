"""How a run decodes: eagerly, or by a graph where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch.distributed as dist
from transformers.cache_utils import DynamicCache, DynamicLayer

from ringlens.config import Recorded, Sampling
from ringlens.errors import ConfigError
from ringlens.model.kernels.experts import IN_PLACE, MOST_CHOICES
from ringlens.model.kernels.nf4 import packed_of
from ringlens.model.parallel import parallel_of
from ringlens.observe.batch import Observer, generate
from ringlens.observe.decoding.generating import generate_repeating
from ringlens.observe.decoding.graph import AsGraph
from ringlens.observe.pipeline.recorder import Recorder
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.plain import shown

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

log = logging.getLogger(__name__)

Decode = Literal["auto", "graph", "eager"]
"""How tokens are decoded: by a CUDA graph of a step; eagerly; or by a graph where there can be one.
"""

Generate = Callable[[Observer, Sequence[Task], Sampling], None]
"""Generates one batch under observation."""

ATTENTION = ("sdpa", "ringlens", "eager")
"""Attention kernels that take a mask over a cache of fixed size."""

EXPERTS = ("grouped_mm", "batched_mm", IN_PLACE)
"""Implementations of experts that do not ask the device what was chosen."""

WITH_NCCL = ("cpu:gloo,cuda:nccl", "cuda:nccl,cpu:gloo")
"""Backends of several kinds of devices, of which NCCL is one."""

ASKING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that depend on the length of the text so far."""


def check_decode(decode: str) -> None:
    """Refuse a way to decode that is not known.

    Raises:
        ConfigError: It is none of `Decode`.
    """
    if decode not in get_args(Decode):
        known = ", ".join(map(repr, get_args(Decode)))
        raise ConfigError(f"decode is {shown(decode)}; known are {known}.")


@dataclass(frozen=True)
class Wanted:
    """What a run wants of its decoding.

    Attributes:
        lens: The model.
        record: What is recorded, resolved for the model.
        batch: Traces side by side.
    """

    lens: LoadedModel
    record: tuple[Recorded, ...]
    batch: int


def generating(decode: str, wanted: Wanted) -> Generate:
    """What generates the batches of a run, for the wish of a caller.

    Args:
        decode: One of `Decode`.
        wanted: What the run wants.

    Raises:
        ConfigError: A graph is asked for, and there can be none.
    """
    if decode == "eager":
        return generate
    reason = next(against(wanted), None)
    if reason is None:
        return generate_by_graph
    if decode == "graph":
        raise ConfigError(f"decode = 'graph' is not possible: {reason}. Leave decode out.")
    on_gpu = wanted.lens.device.type == "cuda"
    log.log(logging.WARNING if on_gpu else logging.INFO, "decoding without a graph: %s", reason)
    return generate


def generate_by_graph(observer: Observer, tasks: Sequence[Task], settings: Sampling) -> None:
    """Generate one batch under observation, its steps a CUDA graph."""
    generate_repeating(observer, tasks, settings, AsGraph)


def against(wanted: Wanted) -> Iterator[str]:
    """What stands against a graph, in clauses; nothing where there can be one."""
    lens = wanted.lens
    yield from _place(lens)
    yield from _kernels(lens)
    yield from _experts(lens, wanted.batch)
    if any(m._forward_hooks or m._forward_pre_hooks for m in lens.model.modules()):
        yield "other hooks are attached to the model, which a graph would not run"
    if names := Recorder(lens, wanted.record, lambda block: None).not_on_tape:
        yield f"what is recorded as {names[0]!r} is seen in Python at each step"


def _place(lens: LoadedModel) -> Iterator[str]:
    """What stands against it in where the model lives."""
    if lens.device.type != "cuda":
        yield f"the model runs on {lens.device.type!r}, and graphs are CUDA's"
    parallel = parallel_of(lens.model)
    if parallel.pp_size > 1:
        yield "stages of a pipeline take turns"
    elif parallel.world_size > 1 and (backend := dist.get_backend()) not in ("nccl", *WITH_NCCL):
        yield f"processes send their parts by {backend!r}, which graphs do not hold"
    places = {parameter.device for parameter in lens.model.parameters()}
    if len(places) > 1:
        yield "the model is spread over devices"


def _kernels(lens: LoadedModel) -> Iterator[str]:
    """What stands against it in how the model computes."""
    config = lens.config
    if config._attn_implementation not in ATTENTION:
        yield f"attention {config._attn_implementation!r} takes no mask over a fixed cache"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ASKING_ROPE:
        yield f"rotary embeddings {rope['rope_type']!r} depend on the length of the text"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        yield "the cache of this model is no plain one"


def _experts(lens: LoadedModel, batch: int) -> Iterator[str]:
    """What stands against it in how experts are held."""
    config = lens.config
    quantized = getattr(config, "quantization_config", None)
    four_bits = quantized is not None and getattr(quantized, "load_in_4bit", False)
    if quantized is not None and not four_bits:
        yield "kernels of weights in 8 bits ask the device what to do"
    if not lens.sizes.sparse_layers:
        return
    if parallel_of(lens.model).ep_size > 1 and lens.model.dtype.itemsize > 2:
        yield "experts of several processes ask the device in more than 16 bits"
    if lens.family.layout_of(config) == "fused":
        if config._experts_implementation not in EXPERTS:
            yield f"experts {config._experts_implementation!r} are called one by one"
        return
    layers: list[Any] = [m for m in lens.model.modules() if getattr(m, "reads_packed", False)]
    if not four_bits or not layers or any(packed_of(layer) is None for layer in layers):
        yield "experts that are modules are called one by one"
    choices = batch * lens.sizes.router.experts_per_token
    if four_bits and choices > MOST_CHOICES:
        yield f"a batch of {batch} has more choices than the kernel of 4 bits takes: {MOST_CHOICES}"
