"""Ways to run a model over devices: a device map, torchrun, vLLM; what each device then holds.

Letters: t processes of tensor parallelism, p stages of pipeline parallelism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ringlens.model.configuration import BailingMoeV2Config
from ringlens.model.device import Device
from ringlens.model.placement import (
    LAYERS,
    DeviceMap,
    Load,
    Need,
    automatic_map,
    fill,
    fits,
    spread,
)
from ringlens.model.setting import BITSANDBYTES, Setting, empty_loads
from ringlens.model.size import Size

# What bitsandbytes' quantisers, and vLLM by default, take of a device.
BITSANDBYTES_SHARE, VLLM_SHARE = 0.9, 0.9


@dataclass(frozen=True)
class Way:
    """One way to run the model.

    Attributes:
        name: "device_map", "torchrun" or "vllm".
        possible: Whether the way exists for this model and precision at all.
        note: What to know; why it is not possible where it is not.
        loads: What each device holds.
        device_map: Device by unit, where the way takes one ("device_map").
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


def by_device_map(s: Setting, devices: Sequence[Device]) -> Way:
    """One process, whole layers on each device, one after the other.

    Layers that do not fit on the GPUs stay in main memory where that is among the devices: they
    travel to the first GPU for each forward.
    """
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
    if s.config.tie_word_embeddings:
        wanted["lm_head"] = wanted["model.word_embeddings"]
    auto = _automatic(s, gpus)
    if fits(loads) and len(gpus) > 1 and not auto:
        note += (
            "device_map='auto' looks at weights alone and would leave a device too full; "
            "the plan's own map spreads them."
        )
    return Way("device_map", True, note, tuple(loads), wanted, auto)


def _offloaded(s: Setting, gpus: Sequence[Device], cpu: Device) -> tuple[list[Load], str]:
    """Keep as few of the last layers as possible in main memory; experts are then modules."""
    if s.held.quantization is None:
        s = replace(s, layout="modules")
    layers = [unit for unit in s.needs if unit.startswith(LAYERS)]
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
    """Device by unit, as ``from_pretrained`` takes it."""
    named: DeviceMap = {}
    for load in loads:
        place = int(load.device.name.split()[1]) if load.device.is_gpu else "cpu"
        named.update(dict.fromkeys(load.units, place))
    return named


def _automatic(s: Setting, gpus: Sequence[Device]) -> bool:
    """Whether ``device_map="auto"`` fits on these GPUs."""
    if not gpus:
        return False
    tied = s.config.tie_word_embeddings
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


def by_torchrun(s: Setting, devices: Sequence[Device]) -> Way:
    """One process for each GPU: weights shared by t of them, layers divided into p stages.

    Every rank sees all heads (the plan for observing), so keys and values are whole on each. Only
    fused experts are shared out, so with bitsandbytes each process holds whole layers (t = 1).
    """
    gpus = [d for d in devices if d.is_gpu]
    if len(gpus) < 2:
        return Way("torchrun", False, "takes two GPUs or more.")
    shapes = _shapes(s.config, len(gpus))
    shares = s.layout == "fused"
    ways = [
        Way(
            "torchrun",
            True,
            "",
            _shared(s, gpus, t, p, experts=t),
            tp_size=t,
            ep_size=t if p == 1 else 1,
            pp_size=p,
        )
        for t, p in shapes
        if t == 1 or shares
    ]
    # Without tensor parallelism every rank holds all but the experts.
    if shares and s.config.num_experts % len(gpus) == 0:
        loads = _shared(s, gpus, 1, 1, experts=len(gpus))
        ways.append(Way("torchrun", True, "", loads, ep_size=len(gpus)))
    if not ways:
        return Way("torchrun", False, _indivisible(s.config, len(gpus)))
    return next((way for way in ways if way.fits), ways[0])


def by_vllm(s: Setting, devices: Sequence[Device]) -> Way:
    """A vLLM server that returns the routed experts of each token."""
    gpus = [d for d in devices if d.is_gpu]
    if not gpus:
        return Way("vllm", False, "takes a GPU: on the CPU vLLM returns no routed experts.")
    if s.held.quantization in BITSANDBYTES:
        return Way("vllm", False, "serve the 16-bit or the FP8 checkpoint.")
    shapes = _shapes(s.config, len(gpus))
    note = "routing of what the server generated; no router logits, no heads."
    ways = [
        Way("vllm", True, note, _served(s, gpus, t, p), tp_size=t, pp_size=p) for t, p in shapes
    ]
    if not ways:
        return Way("vllm", False, _indivisible(s.config, len(gpus)))
    return next((way for way in ways if way.fits), ways[0])


def _served(s: Setting, gpus: Sequence[Device], t: int, p: int) -> tuple[Load, ...]:
    """As under torchrun, but heads are shared out too, nothing is recorded, nothing fused."""
    loads = _shared(s, gpus, t, p, experts=t)
    kept = [round((1 - VLLM_SHARE) * load.device.capacity) for load in loads]
    return tuple(
        replace(load, reserve=k, cache=load.cache // t, recording=0, fusing=0)
        for load, k in zip(loads, kept, strict=True)
    )


def _shapes(config: BailingMoeV2Config, n: int) -> list[tuple[int, int]]:
    """Ways (t, p) to divide n processes: t divides heads, kv heads and experts."""
    shapes = [(n // p, p) for p in range(1, min(n, config.num_hidden_layers) + 1) if n % p == 0]
    shared = (config.num_attention_heads, config.num_key_value_heads or 1, config.num_experts)
    return [(t, p) for t, p in shapes if all(number % t == 0 for number in shared)]


def _indivisible(config: BailingMoeV2Config, n: int) -> str:
    return (
        f"{n} processes divide neither into the {config.num_hidden_layers} layers nor the "
        f"{config.num_key_value_heads} key/value heads; use a power of two."
    )


def _shared(
    s: Setting, gpus: Sequence[Device], t: int, p: int, *, experts: int
) -> tuple[Load, ...]:
    """What each of t·p (or ``experts``) ranks holds; stages are divided as transformers does."""
    layers, tied = s.config.num_hidden_layers, s.config.tie_word_embeddings
    loads = []
    for rank, load in enumerate(empty_loads(s, gpus)):
        stage = rank * p // len(gpus)
        first = stage * (layers // p)
        last = layers if stage == p - 1 else first + layers // p
        for unit, need in s.needs.items():
            if unit.startswith(LAYERS):
                mine = first <= int(unit.removeprefix(LAYERS)) < last
            elif unit == "model.word_embeddings":
                mine = stage == 0 or (tied and stage == p - 1)
            else:
                mine = stage == p - 1 or unit == "model.rotary_emb"
            if mine:
                load = load.plus(unit, _portion(s.size, unit, need, t, experts))
        loads.append(load)
    return tuple(loads)


def _portion(size: Size, unit: str, need: Need, t: int, experts: int) -> Need:
    """One rank's part of a unit."""
    whole, routed = size.whole_bytes[unit], size.expert_bytes[unit]
    dense = need.weights - whole - routed
    weights = whole + -(-dense // t) + -(-routed // experts)
    return replace(need, weights=weights, fusing=-(-need.fusing // experts))
