"""How a run decodes: eagerly, or by a graph where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from transformers.cache_utils import DynamicCache, DynamicLayer

from ringlens.config import Recorded, Sampling
from ringlens.errors import ConfigError
from ringlens.model.kernels.experts import IN_PLACE
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
    """

    lens: LoadedModel
    record: tuple[Recorded, ...]


def generating(decode: str, wanted: Wanted) -> Generate:
    """What generates the batches of a run, for the wish of a caller.

    Args:
        decode: One of `Decode`.
        wanted: What the run wants.

    Raises:
        ConfigError: A graph is asked for, and there can be none.
    """
    reason = next(against(wanted), None)
    if decode == "eager":
        if reason is None:
            log.info(
                "decoding eagerly: with decode='graph' (--decode graph) a step is repeated without "
                "Python, several times as fast where steps are small"
            )
        return generate
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
    if any(m._forward_hooks or m._forward_pre_hooks for m in lens.model.modules()):
        yield "other hooks are attached to the model, which a graph would not run"
    if names := Recorder(lens, wanted.record, lambda block: None).not_on_tape:
        yield f"what is recorded as {names[0]!r} is seen in Python at each step"


def _place(lens: LoadedModel) -> Iterator[str]:
    """What stands against it in where the model lives."""
    if lens.device.type != "cuda":
        yield f"the model runs on {lens.device.type!r}, and graphs are CUDA's"
    if parallel_of(lens.model).world_size > 1:
        yield "the model is spread over processes"
    places = {parameter.device for parameter in lens.model.parameters()}
    if len(places) > 1:
        yield "the model is spread over devices"
    if getattr(lens.config, "quantization_config", None) is not None:
        yield "kernels of quantised weights ask the device what to do"


def _kernels(lens: LoadedModel) -> Iterator[str]:
    """What stands against it in how the model computes."""
    config = lens.config
    if config._attn_implementation not in ATTENTION:
        yield f"attention {config._attn_implementation!r} takes no mask over a fixed cache"
    if lens.family.layout_of(config) != "fused":
        yield "experts that are modules are called one by one"
    if config._experts_implementation not in EXPERTS:
        yield f"experts {config._experts_implementation!r} are called one by one"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ASKING_ROPE:
        yield f"rotary embeddings {rope['rope_type']!r} depend on the length of the text"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        yield "the cache of this model is no plain one"
