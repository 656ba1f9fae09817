"""The exact commands that start a plan's strategies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from math import ceil

from ringlens.model.fit.plan import Plan
from ringlens.model.fit.scenario import RESERVE, layout_for
from ringlens.model.fit.size import published_quantization
from ringlens.model.fit.strategy import Strategy
from ringlens.model.parallel import processes

MAP_FILE = "device_map.json"
STORE = "runs/first"
# Stands for what only the user knows: where the weights are.
MODEL, FP8_MODEL = "MODEL", "FP8_MODEL"
# Of the context, what the commands leave to the prompt.
PROMPT = 1024


@dataclass(frozen=True)
class Launch:
    """What commands need to know beside the plan.

    Attributes:
        model: What to load: a folder or a hub id (MODEL where only a configuration is known).
        source: What the plan was made from.
        gpus: The devices, as they were given.
        per_node: GPUs in one machine.
        dtype: The dtype that was asked for; None for the one that loading chooses.
    """

    model: str
    source: str
    gpus: str
    per_node: int = 8
    dtype: str | None = None


def commands(plan: Plan, strategy: Strategy, launch: Launch) -> list[str]:
    """List the commands that start a strategy, in order; none where it is not possible."""
    if not strategy.possible:
        return []
    s = plan.scenario
    if s.held.quantization == "fp8" and published_quantization(s.config) != "fp8":
        launch = replace(launch, model=FP8_MODEL, source=FP8_MODEL)
    return {"device_map": _device_map, "torchrun": _torchrun, "vllm": _vllm}[strategy.name](
        plan, strategy, launch
    )


def _capture(plan: Plan, launch: Launch) -> str:
    """Join the options of ``ringlens capture`` that every strategy shares."""
    s = plan.scenario
    new = s.work.context - PROMPT if s.work.context > PROMPT else s.work.context
    options = [f"--store {STORE}", f"--batch-size {s.work.batch}", f"--max-new-tokens {new}"]
    if s.held.quantization:
        options.append(f"--quantization {s.held.quantization}")
    return " ".join([*options, *_shared_options(plan, launch)])


def _shared_options(plan: Plan, launch: Launch) -> list[str]:
    """List the options that planning and loading share."""
    s = plan.scenario
    options = [f"--dtype {launch.dtype}"] if launch.dtype else []
    if s.layout != layout_for(s.held.quantization):
        options.append(f"--experts {s.layout}")
    return options


def _device_map(plan: Plan, strategy: Strategy, launch: Launch) -> list[str]:
    line = f"ringlens capture {launch.model} {_capture(plan, launch)}"
    if not any(load.device.is_gpu for load in strategy.loads):
        return [line]
    if strategy.automatic:
        return [f"{line} --device-map auto"]
    s = plan.scenario
    chosen = s.held.quantization
    again = [f"ringlens plan {launch.source} --gpus {launch.gpus}"]
    if chosen and chosen not in ("fp8", published_quantization(s.config)):
        again.append(f"--quantization {chosen}")
    again.append(f"--context {s.work.context} --batch {s.work.batch} --prefill {s.work.prefill}")
    again += _shared_options(plan, launch)
    if s.reserve != RESERVE:
        again.append(f"--reserve {s.reserve / 1e9:.12g}GB")
    return [
        f"{' '.join(again)} --save-device-map {MAP_FILE}",
        f"{line} --device-map {MAP_FILE}",
    ]


def _torchrun(plan: Plan, strategy: Strategy, launch: Launch) -> list[str]:
    started = processes(strategy.tp_size, strategy.ep_size, strategy.pp_size)
    # As few machines as can start equally many processes each.
    nodes = next(n for n in count(ceil(started / launch.per_node)) if started % n == 0)
    sizes = (("tp", strategy.tp_size), ("ep", strategy.ep_size), ("pp", strategy.pp_size))
    layout = " ".join(f"--{name}-size {size}" for name, size in sizes if size > 1)
    start = f"torchrun --nnodes {nodes} --nproc-per-node {started // nodes}"
    start += (
        " --standalone"
        if nodes == 1
        else " --node-rank $NODE_RANK --master-addr $MASTER_ADDR --master-port 29500"
    )
    # After "--" torchrun leaves options such as --n to the program.
    return [f"{start} -m -- ringlens.cli capture {launch.model} {_capture(plan, launch)} {layout}"]


def _vllm(plan: Plan, strategy: Strategy, launch: Launch) -> list[str]:
    work = plan.scenario.work
    return [
        f"vllm serve {launch.model} --trust-remote-code --tensor-parallel-size {strategy.tp_size} "
        f"--pipeline-parallel-size {strategy.pp_size} --max-model-len {work.context} "
        f"--max-num-seqs {work.batch} --enable-return-routed-experts"
    ]
