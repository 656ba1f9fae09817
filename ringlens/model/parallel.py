"""How a model is spread over processes: tensor, expert and pipeline parallelism under torchrun.

transformers does the sharding (``DistributedConfig``) by the plans of the model's family. This
module checks a layout before it begins, and answers what an observer asks afterwards.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError
from ringlens.model.family import family_of, sizes_of
from ringlens.model.quantization import fp8_block, quantization_method

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# What a rank gets of each expert must begin at 16 bytes: so many 16-bit numbers.
ALIGNED = 8


@dataclass(frozen=True)
class Parallel:
    """How a loaded model is laid out over processes.

    Attributes:
        tp_size: Processes that share each dense weight (and each expert, without ``ep_size``).
        ep_size: Processes that share out the experts, each holding whole ones.
        pp_size: Stages that the decoder layers are divided into.
        rank: This process among all.
        world_size: All processes that hold a part of the model.
    """

    tp_size: int = 1
    ep_size: int = 1
    pp_size: int = 1
    rank: int = 0
    world_size: int = 1


def parallel_of(model: PreTrainedModel) -> Parallel:
    """Tell the layout of a loaded model; ``Parallel()`` where it lives in this process alone.

    Processes that each hold a whole model of their own (data parallelism) count as single.
    """
    layout = getattr(model.config, "distributed_config", None)
    if layout is None or getattr(model, "_device_mesh", None) is None:
        return Parallel()
    import torch.distributed as dist

    # Expert parallelism alone is, to transformers, a tensor plan that shards nothing.
    shards = set(model.tp_plan.values()) - {"replicate"}
    return Parallel(
        tp_size=layout.tp_size if shards else 1,
        ep_size=getattr(layout, "ep_size", None) or 1,
        pp_size=layout.pp_size or 1,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )


def owned_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """List the decoder layers that live in this process, ascending.

    Under tensor and expert parallelism every rank owns every layer (its share of it); under
    pipeline parallelism the layers of other stages are placeholders without weights.
    """
    return tuple(i for i, layer in enumerate(model.get_decoder().layers) if lives_here(layer))


def lives_here(module: nn.Module) -> bool:
    """Tell whether a module has weights in this process: another pipeline stage may hold it."""
    # transformers puts this in the place of what other stages hold.
    return type(module).__name__ != "PipelineIdentityLayer"


def stage_layers(layers: int, stages: int) -> tuple[range, ...]:
    """Tell which decoder layers each stage of a pipeline holds, as transformers shares them out.

    What is left over goes to the first stages, one layer each; before transformers 5.24 all of it
    went to the last. So the installed one is asked.

    Args:
        layers: Decoder layers of the model.
        stages: Stages, at most as many.
    """
    from transformers.distributed.pipeline_parallel import PipelineStage

    stage = object.__new__(PipelineStage)  # whose constructor takes processes that run
    stage.pp_size = stages
    return tuple(range(*stage.layer_range_for_rank(rank, layers)) for rank in range(stages))


def control_group(timeout_s: float) -> dist.ProcessGroup | None:
    """Open a gloo group of all ranks for control messages; None in a single process.

    All ranks must call this together. A rank that waits longer than ``timeout_s`` seconds in a
    collective of the group gets torch's RuntimeError instead of waiting for ever.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def splits_experts(layout: Any) -> bool:
    """Tell whether a ``DistributedConfig`` (or its dict, or None) splits experts."""
    values = layout if isinstance(layout, dict) else vars(layout) if layout else {}
    return any((values.get(name) or 1) > 1 for name in ("tp_size", "ep_size"))


def processes(tp_size: int, ep_size: int, pp_size: int) -> int:
    """Count the processes of a layout: tensor and expert parallelism share their ranks."""
    return max(tp_size, ep_size) * pp_size


def distributed_config(
    config: PreTrainedConfig, *, tp_size: int, ep_size: int, pp_size: int
) -> Any | None:
    """Make transformers' ``DistributedConfig`` for a layout; None for a single process.

    Raises:
        ConfigError: The sizes do not fit the model, each other, the processes that torchrun
            started, or the installed transformers.
    """
    check_sizes(
        config,
        tp_size=tp_size,
        ep_size=ep_size,
        pp_size=pp_size,
        method=quantization_method(config),
    )
    if (tp_size, ep_size, pp_size) == (1, 1, 1):
        return None
    _check_processes(tp_size, ep_size, pp_size)
    kind = _distributed_config_class(ep_size)
    sizes: dict[str, Any] = {"tp_size": max(tp_size, ep_size), "pp_size": pp_size}
    if ep_size > 1:
        sizes["ep_size"] = ep_size
    if ep_size > 1 and tp_size == 1:
        sizes["tp_plan"] = dict.fromkeys(
            [*(f"model.{name}" for name in config.base_model_tp_plan or {}), "lm_head"], "replicate"
        )
    return kind(**sizes)


def check_sizes(
    config: PreTrainedConfig,
    *,
    tp_size: int,
    ep_size: int,
    pp_size: int,
    method: str | None = None,
) -> None:
    """Refuse a layout that cannot be; what loading and planning both ask.

    Heads need not divide: the outputs of the attention's projections are gathered, so a head may be
    computed by two ranks.

    Args:
        config: The model's configuration.
        tp_size: Processes that share each weight.
        ep_size: Processes that share out the experts.
        pp_size: Stages of layers.
        method: The quantisation of the weights that are loaded, as transformers names it.

    Raises:
        ConfigError: The sizes do not fit the model or each other.
    """
    for name, size in (("tp_size", tp_size), ("ep_size", ep_size), ("pp_size", pp_size)):
        if size < 1:
            raise ConfigError(f"{name} = {size}; it must be 1 (not used) or more.")
    if tp_size > 1 and ep_size > 1 and tp_size != ep_size:
        raise ConfigError(
            f"tp_size = {tp_size} with ep_size = {ep_size}: together they share the same processes "
            f"(dense weights by tp_size, experts by ep_size), so give both the same size, "
            "or only one of them."
        )
    if pp_size > 1 and max(tp_size, ep_size) > 1:
        # 5.23 shards by a plan that still names the layers of other stages, and fails on them.
        raise ConfigError(
            f"pp_size = {pp_size} with tp_size = {tp_size} and ep_size = {ep_size}: transformers "
            "cannot yet combine pipeline with tensor or expert parallelism. Use "
            f"tp_size = ep_size = {max(tp_size, ep_size) * pp_size}, or pp_size alone."
        )
    model = sizes_of(config)
    if model.router.experts % ep_size:
        raise ConfigError(
            f"ep_size = {ep_size} does not divide the model's {model.router.experts} experts."
        )
    if pp_size > model.layers:
        raise ConfigError(
            f"pp_size = {pp_size}, but the model has {model.layers} layers; "
            "a stage needs at least one."
        )
    block = max(fp8_block(config)) if method == "fp8" else 1
    if tp_size > 1:
        _check_widths(config, tp_size, block, experts=ep_size == 1)


def _check_widths(config: PreTrainedConfig, tp_size: int, block: int, *, experts: bool) -> None:
    """Refuse to split a weight where no rank may be given a part of it.

    Dense weights in 16 bits split anywhere. FP8 weights split between the blocks that share a
    scale, and the rows of fused experts where grouped products can begin to read.

    Args:
        config: The model's configuration.
        tp_size: Processes that share each weight.
        block: Rows and columns that share a scale; 1 without FP8.
        experts: Whether the experts are split as well.
    """
    dense, model = family_of(config).split_widths(config), sizes_of(config)
    widths = [(name, width, block) for name, width in dense.items() if block > 1]
    if experts and model.sparse_layers:
        widths.append(("experts", model.expert_width, max(block, ALIGNED)))
    for name, width, part in widths:
        if width % (tp_size * part):
            why = "FP8 scales belong to blocks" if block > 1 else "16 bytes of 16-bit numbers"
            raise ConfigError(
                f"tp_size = {tp_size}: {name}, {width} wide, cannot be split into {tp_size} parts "
                f"that are multiples of {part} ({why}). Take another tp_size, or ep_size or "
                "pp_size alone: they keep experts or layers whole."
            )


def _check_processes(tp_size: int, ep_size: int, pp_size: int) -> None:
    wanted = processes(tp_size, ep_size, pp_size)
    started = os.environ.get("WORLD_SIZE")
    if started is not None and int(started) == wanted:
        return
    sizes = f"tp_size = {tp_size}, ep_size = {ep_size}, pp_size = {pp_size}"
    launched = "this is a single process" if started is None else f"WORLD_SIZE is {started}"
    script = " ".join(sys.argv) if sys.argv and sys.argv[0] not in ("", "-c") else "your_script.py"
    raise ConfigError(
        f"{sizes} takes {wanted} processes, but {launched}. Start it with\n"
        f"  torchrun --standalone --nproc-per-node={wanted} {script}"
    )


def _distributed_config_class(ep_size: int) -> Any:
    import transformers

    try:
        from transformers.distributed import DistributedConfig
    except ImportError as error:
        raise _too_old(transformers.__version__, "DistributedConfig") from error
    known = {field.name for field in fields(DistributedConfig)}
    needed = {"tp_size", "pp_size"} | ({"ep_size"} if ep_size > 1 else set())
    if needed - known:
        raise _too_old(transformers.__version__, f"DistributedConfig({min(needed - known)}=…)")
    return DistributedConfig


def _too_old(version: str, lacking: str) -> ConfigError:
    return ConfigError(
        f"transformers {version} has no {lacking}, which this layout needs. "
        "Install transformers 5.23 or newer (pip install -U transformers)."
    )
