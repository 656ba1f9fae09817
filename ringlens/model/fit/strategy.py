"""Strategies to run a model on devices: a device map, torchrun, vLLM; what each device holds.

Letters: t processes of tensor parallelism, p stages of pipeline parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ringlens.errors import ConfigError
from ringlens.model.fit.placement import (
    Device,
    DeviceMap,
    Load,
    Need,
    automatic_map,
    fill,
    fits,
    spread,
)
from ringlens.model.fit.scenario import (
    BITSANDBYTES,
    RESERVE_PROCESS,
    Scenario,
    empty_loads,
    layout_for,
)
from ringlens.model.fit.size import Size
from ringlens.model.parallel import check_sizes, stage_layers
from ringlens.model.sizes import Sizes

# What bitsandbytes' quantisers, and vLLM by default, take of a device.
BITSANDBYTES_SHARE, VLLM_SHARE = 0.9, 0.9


@dataclass(frozen=True)
class Strategy:
    """One strategy to run the model.

    Attributes:
        name: "device_map", "torchrun" or "vllm".
        possible: Whether the strategy exists for this model and precision at all.
        note: What to know; why it is not possible where it is not.
        loads: What each device holds.
        device_map: Device by unit, where the strategy takes one ("device_map").
        automatic: Whether ``device_map="auto"`` fits as well ("device_map").
        tp_size: Processes that share each weight.
        ep_size: Processes that share out the experts.
        pp_size: Stages of layers.
    """

    name: str
    possible: bool
    note: str = ""
    loads: tuple[Load, ...] = ()
    device_map: DeviceMap | None = None
    automatic: bool = False
    tp_size: int = 1
    ep_size: int = 1
    pp_size: int = 1

    @property
    def fits(self) -> bool:
        """Whether every device has room."""
        return self.possible and fits(self.loads)


def by_device_map(s: Scenario, devices: Sequence[Device]) -> Strategy:
    """Plan one process with whole layers on each device, one after the other.

    Layers that do not fit on the GPUs stay in main memory where that is among the devices: they
    travel to the first GPU for each forward.
    """
    s = s.on(devices)
    gpus = [d for d in devices if d.is_gpu]
    cpu = next((d for d in devices if not d.is_gpu), None)
    loads = spread(s.needs, empty_loads(s, gpus or devices))
    note = ""
    if not fits(loads) and gpus and cpu and s.held.quantization not in BITSANDBYTES:
        loads, note = _offloaded(s, gpus, cpu)
    elif gpus and cpu:
        loads = [*loads, Load(cpu, s.recording.host)]
        if not fits(loads):
            note = "bitsandbytes keeps nothing in main memory: the GPUs must hold the whole model. "
    wanted = _map(loads)
    if s.model.tied:
        wanted[s.units.head] = wanted[s.units.embeddings]
    auto = _automatic(s, gpus)
    if fits(loads) and len(gpus) > 1 and not auto:
        note += (
            "device_map='auto' looks at weights alone and would leave a device too full; "
            "the plan's own map spreads them."
        )
    return Strategy("device_map", True, note, tuple(loads), wanted, auto)


def _offloaded(s: Scenario, gpus: Sequence[Device], cpu: Device) -> tuple[list[Load], str]:
    """Keep as few of the last layers as possible in main memory; experts are then modules."""
    s = replace(s, may_graph=False)
    if s.held.quantization is None:
        s = replace(s, layout="modules")
    layers = [unit for unit in s.needs if s.units.layer(unit) is not None]
    loads: list[Load] = []
    for kept in range(len(layers) - 1, -1, -1):
        moved = layers[kept:]
        first, *others = empty_loads(s, gpus)
        travelling = [s.needs[unit] for unit in moved]
        first = replace(  # runs the moved layers: room for the largest, and for all they cache
            first,
            reserve=first.reserve + max(need.weights for need in travelling),
            cache=sum(need.cache for need in travelling),
            recording=sum(need.recording for need in travelling),
            working=max(need.working for need in travelling),
        )
        stay = {unit: need for unit, need in s.needs.items() if unit not in moved}
        loads = fill(stay, [first, *others])
        held = Load(cpu, s.recording.host)
        for unit in moved:
            held = held.plus(unit, Need(s.needs[unit].weights, fusing=s.needs[unit].fusing))
        loads.append(held)
        if fits(loads):
            break
    return loads, f"{len(moved)} of {len(layers)} layers stay in main memory: much slower. "


def _map(loads: Sequence[Load]) -> DeviceMap:
    """Map units to devices, as ``from_pretrained`` takes it."""
    named: DeviceMap = {}
    for load in loads:
        place = int(load.device.name.split()[1]) if load.device.is_gpu else "cpu"
        named.update(dict.fromkeys(load.units, place))
    return named


def _automatic(s: Scenario, gpus: Sequence[Device]) -> bool:
    """Tell whether ``device_map="auto"`` fits on these GPUs."""
    if not gpus:
        return False
    tied = s.model.tied
    alone = 0.9 if len(gpus) == 1 else 1.0
    scale = BITSANDBYTES_SHARE if s.held.quantization in BITSANDBYTES else 1.0
    capacities: dict[int | str, float] = {i: alone * d.capacity for i, d in enumerate(gpus)}
    found = automatic_map(s.size, capacities, tied=tied, scale=scale)
    loads = empty_loads(s, gpus)
    for unit, need in s.needs.items():
        place = found[unit]
        if not isinstance(place, int):
            return False
        loads[place] = loads[place].plus(unit, need)
    return fits(loads)


def by_torchrun(s: Scenario, devices: Sequence[Device]) -> Strategy:
    """Plan one process a GPU, in the best layout over all of them that loading accepts.

    Tensor and expert parallelism together where that fits, since all GPUs then work on each token;
    otherwise whatever leaves the fullest GPU most room. Each rank sees all heads (so that they can
    be observed), hence its keys and values are whole; in a pipeline they are those of its layers.
    """
    gpus = [d for d in devices if d.is_gpu]
    n = len(gpus)
    if n < 2:
        return Strategy("torchrun", False, "takes two GPUs or more.")
    refused, strategies = [], []
    for tp, ep, pp in ((n, n, 1), (1, n, 1), (n, 1, 1), (1, 1, n)):
        why_not = refusal(s, tp, ep, pp)
        if why_not:
            refused.append(why_not)
            continue
        strategies.append(sharded(s, gpus, tp, ep, pp))
    if not strategies:
        return Strategy("torchrun", False, " ".join(dict.fromkeys(refused)))
    shared = next(
        (strategy for strategy in strategies if strategy.tp_size == strategy.ep_size == n), None
    )
    if shared and shared.fits:
        return replace(shared, note="all GPUs work on each token; each holds all keys and values.")
    best = max(
        (strategy for strategy in strategies if strategy.fits),
        key=_room,
        default=max(strategies, key=_room),
    )
    why = _lacks(shared) if shared else refused[0]
    return replace(best, note=f"{why} {_turns(s.model, best)}".strip())


def sharded(s: Scenario, gpus: Sequence[Device], tp: int, ep: int, pp: int) -> Strategy:
    """Plan one layout under torchrun, a process for each GPU."""
    splits = tp if ep == 1 < tp else s.splits  # only a part of each expert is copied
    reserve = s.reserve + RESERVE_PROCESS
    s = replace(s, splits=splits, reserve=reserve, may_graph=pp == 1)
    loads = _ranks(s, gpus, tp, pp, experts=max(tp, ep), everywhere=s.units.everywhere)
    return Strategy("torchrun", True, "", loads, tp_size=tp, ep_size=ep, pp_size=pp)


def refusal(s: Scenario, tp: int, ep: int, pp: int) -> str:
    """Say why loading refuses a layout, in its own words; empty where it does not."""
    method = s.held.quantization
    try:
        check_sizes(s.config, tp_size=tp, ep_size=ep, pp_size=pp, method=method)
        layout_for(method, s.layout, sharded=max(tp, ep) > 1)
    except ConfigError as error:
        return str(error)
    return ""


def _room(strategy: Strategy) -> int:
    """Count the bytes that the fullest device has left."""
    return min(load.free for load in strategy.loads)


def _lacks(strategy: Strategy) -> str:
    """Say why tensor and expert parallelism do not fit."""
    return (
        f"tp {strategy.tp_size} with ep {strategy.ep_size} lacks "
        f"{-_room(strategy) / 1e9:.1f} GB a GPU: each holds all keys and values, "
        f"{strategy.loads[0].cache / 1e9:.1f} GB."
    )


def _turns(model: Sizes, strategy: Strategy) -> str:
    """Say what to know of a pipeline; nothing where there is none."""
    layers, p = model.layers, strategy.pp_size
    if p == 1:
        return ""
    turns = f"The {p} stages take turns: one GPU works at a time."
    if layers % p == 0:
        return turns
    counts = [len(each) for each in stage_layers(layers, p)]
    return (
        f"{turns} They have {min(counts)} to {max(counts)} layers; as many GPUs as divide {layers} "
        "would share them evenly."
    )


def by_vllm(s: Scenario, devices: Sequence[Device]) -> Strategy:
    """Plan a vLLM server that returns the routed experts of each token."""
    gpus = [d for d in devices if d.is_gpu]
    if not gpus:
        return Strategy("vllm", False, "takes a GPU: on the CPU vLLM returns no routed experts.")
    if s.held.quantization in BITSANDBYTES:
        return Strategy("vllm", False, "serve the 16-bit or the FP8 checkpoint.")
    shapes = _shapes(s.model, len(gpus))
    note = "routing of what the server generated; no router logits, no heads."
    strategies = [
        Strategy("vllm", True, note, _served(s, gpus, t, p), tp_size=t, pp_size=p)
        for t, p in shapes
    ]
    if not strategies:
        return Strategy("vllm", False, _indivisible(s.model, len(gpus)))
    return next((strategy for strategy in strategies if strategy.fits), strategies[0])


def _served(s: Scenario, gpus: Sequence[Device], t: int, p: int) -> tuple[Load, ...]:
    """Load devices as under torchrun, but with heads shared out and nothing recorded or fused."""
    s = replace(s, splits=0, may_graph=False)
    loads = _ranks(s, gpus, t, p, experts=t, everywhere=(s.units.rotary,))
    kept = [round((1 - VLLM_SHARE) * load.device.capacity) for load in loads]
    return tuple(
        replace(load, reserve=k, cache=load.cache // t, recording=0, fusing=0)
        for load, k in zip(loads, kept, strict=True)
    )


def _shapes(model: Sizes, n: int) -> list[tuple[int, int]]:
    """List the ways (t, p) to divide n processes where t divides heads, kv heads and experts."""
    shapes = [(n // p, p) for p in range(1, min(n, model.layers) + 1) if n % p == 0]
    shared = (model.heads, model.kv_heads, model.router.experts)
    return [(t, p) for t, p in shapes if all(number % t == 0 for number in shared)]


def _indivisible(model: Sizes, n: int) -> str:
    return (
        f"{n} processes divide neither into the {model.layers} layers nor the "
        f"{model.kv_heads} key/value heads; use a power of two."
    )


def _ranks(
    s: Scenario,
    gpus: Sequence[Device],
    t: int,
    p: int,
    *,
    experts: int,
    everywhere: Sequence[str],
) -> tuple[Load, ...]:
    """Load each process with what it holds.

    Args:
        s: What is planned for.
        gpus: A GPU for each process.
        t: Processes that share each dense weight.
        p: Stages of layers.
        experts: Processes that share the experts of a layer.
        everywhere: Units that every stage holds.
    """
    stages = _stages(s, p) | dict.fromkeys(everywhere, range(p))
    peers = len(gpus) // p  # ranks that hold the same layers
    loads = []
    for rank, load in enumerate(empty_loads(s, gpus)):
        stage, peer = divmod(rank, peers)
        for unit, need in s.needs.items():
            if stage in stages[unit]:
                # Of the ranks that hold a layer one watches it (see observe/ranks.py).
                layer = s.units.layer(unit) or 0
                part = _portion(s.size, unit, need, t, experts)
                load = load.plus(unit, part if layer % peers == peer else part.unwatched())
        loads.append(load)
    return tuple(loads)


def _stages(s: Scenario, p: int) -> dict[str, Sequence[int]]:
    """Assign units to stages."""
    last, units = p - 1, s.units
    stages: dict[str, Sequence[int]] = {
        f"{units.layers}{layer}": [stage]
        for stage, layers in enumerate(stage_layers(s.model.layers, p))
        for layer in layers
    }
    embeddings = [0, last] if s.model.tied else [0]
    return {
        **stages,
        units.embeddings: embeddings,
        units.norm: [last],
        units.head: [last],
    }


def _portion(size: Size, unit: str, need: Need, t: int, experts: int) -> Need:
    """Take one rank's part of a unit."""
    whole, routed = size.whole_bytes[unit], size.expert_bytes[unit]
    dense = need.weights - whole - routed
    weights = whole + -(-dense // t) + -(-routed // experts)
    return replace(need, weights=weights, fusing=-(-need.fusing // experts))
