"""Devices, and which of them holds which part of a model: transformers' own rule, and an even one.

A part ("unit") is what never stands on two devices: the embeddings, one decoder layer, the final
norm, the output projection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ringlens.errors import ConfigError
from ringlens.model.fit.size import Size

DeviceMap = dict[str, str | int]
BYTES = {
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
EXAMPLES = "16x80GB, 8x141GB, 4x80GiB, or 2x80GB,cpu:512GB to keep what does not fit in main memory"
_PART = re.compile(r"(?:(\d+)\s*x\s*)?(?:(cpu|gpu)\s*:\s*)?(\d+(?:\.\d+)?)\s*([KMGT]i?B)", re.I)


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: "gpu 0", "gpu 1", …, or "cpu".
        capacity: Its memory, bytes.
    """

    name: str
    capacity: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is an accelerator."""
        return self.name != "cpu"


def devices(spec: str) -> tuple[Device, ...]:
    """Read a list of devices: GPUs in order, then main memory if it is named.

    GB are 10⁹ bytes, GiB 2³⁰. ``cpu:64GB`` alone plans for a machine without GPUs.

    Raises:
        ConfigError: The line is not understood.
    """
    gpus: list[Device] = []
    cpu: Device | None = None
    for part in spec.split(","):
        found = _PART.fullmatch(part.strip())
        unit = BYTES.get(found[4].upper()) if found else None
        if not found or unit is None:
            raise ConfigError(f"cannot read {part.strip()!r} in {spec!r}: give {EXAMPLES}.")
        count, size = int(found[1] or 1), int(float(found[3]) * unit)
        if count < 1 or size < 1:
            raise ConfigError(f"{part.strip()!r} in {spec!r} is no device: give {EXAMPLES}.")
        if (found[2] or "").lower() != "cpu":
            gpus += [Device(f"gpu {len(gpus) + i}", size) for i in range(count)]
        elif count > 1 or cpu is not None:
            raise ConfigError(f"{spec!r} names main memory more than once: give cpu:SIZE once.")
        else:
            cpu = Device("cpu", size)
    return (*gpus, *([cpu] if cpu else []))


@dataclass(frozen=True)
class Need:
    """What a unit takes on the device that holds it, bytes.

    Attributes:
        weights: Weights and buffers.
        cache: Keys and values.
        recording: Observation buffers.
        working: Peak working memory of its forward; units on one device take turns.
        fusing: Memory beside the weights while its experts are fused; taken when loading only.
    """

    weights: int
    cache: int = 0
    recording: int = 0
    working: int = 0
    fusing: int = 0

    def unwatched(self) -> Need:
        """Leave out what recording takes."""
        return replace(self, recording=0)


@dataclass(frozen=True)
class Load:
    """What one device is to hold.

    Attributes:
        device: The device.
        reserve: Bytes kept back: CUDA context, libraries' workspaces, fragmentation.
        units: Names of the units, in order.
        weights: Their weights and buffers.
        cache: Their keys and values.
        recording: Their observation buffers.
        working: Working memory of the unit that needs most.
        fusing: Memory beside the weights while the largest fused layer is built.
    """

    device: Device
    reserve: int = 0
    units: tuple[str, ...] = ()
    weights: int = 0
    cache: int = 0
    recording: int = 0
    working: int = 0
    fusing: int = 0

    @property
    def used(self) -> int:
        """Bytes at the worst moment: when loading, or when running."""
        running = self.cache + self.recording + self.working
        return self.reserve + self.weights + max(self.fusing, running)

    @property
    def free(self) -> int:
        """Bytes left at the worst moment; negative where it does not fit."""
        return self.device.capacity - self.used

    def plus(self, unit: str, need: Need) -> Load:
        """Add one unit to this device."""
        return Load(
            self.device,
            self.reserve,
            (*self.units, unit),
            self.weights + need.weights,
            self.cache + need.cache,
            self.recording + need.recording,
            max(self.working, need.working),
            max(self.fusing, need.fusing),
        )


def fill(needs: Mapping[str, Need], empty: Sequence[Load], limit: int | None = None) -> list[Load]:
    """Fill devices one after the other, in the order of the units; the rest goes on the last.

    Since the order is fixed, this places everything whenever any placement in this order does; a
    device that does not fit shows it by ``free < 0``.

    Args:
        needs: The units in order.
        empty: The devices, empty.
        limit: Most bytes that a device may use, where that is less than its capacity.
    """
    loads, rest = list(empty), list(needs.items())
    for i, load in enumerate(loads):
        top = load.device.capacity if limit is None else min(load.device.capacity, limit)
        last = i == len(loads) - 1
        while rest and (last or load.plus(*rest[0]).used <= top):
            load = load.plus(*rest.pop(0))
        loads[i] = load
    return loads


def spread(needs: Mapping[str, Need], empty: Sequence[Load]) -> list[Load]:
    """Fill devices evenly: the fullest one is as empty as the order of the units allows.

    Falls back on :func:`fill` where the units do not fit at all.
    """
    loads = fill(needs, empty)
    if not fits(loads):
        return loads
    low, high = 0, max(load.device.capacity for load in empty)
    while high - low > 1:
        limit = (low + high) // 2
        tried = fill(needs, empty, limit)
        if all(load.used <= min(limit, load.device.capacity) for load in tried if load.units):
            high, loads = limit, tried
        else:
            low = limit
    return loads


def fits(loads: Iterable[Load]) -> bool:
    """Tell whether no device is too full."""
    return all(load.free >= 0 for load in loads)


@dataclass(frozen=True)
class _Module:
    """A module as the rule for device maps sees it: its bytes, and what it may be split into."""

    name: str
    size: float
    children: tuple[_Module, ...] = field(default=())

    def largest(self) -> float:
        """Count the bytes of the largest part that is never split."""
        return max((child.largest() for child in self.children), default=self.size)


def automatic_map(
    size: Size, capacities: Mapping[int | str, float], *, tied: bool = False, scale: float = 1.0
) -> DeviceMap:
    """Predict the device map that transformers makes for ``device_map="auto"``.

    The rule of transformers 5's ``get_balanced_memory`` and ``infer_auto_device_map``: every GPU
    but the last is limited to an even share and a quarter more than one layer; then modules are
    placed in order, with room for the largest layer still to come kept free on the first GPU and in
    main memory. It knows of weights alone, and tends to leave the last GPUs empty.

    Args:
        size: The model's size; ``seen_bytes`` is what transformers counts.
        capacities: Bytes by device, 0, 1, … and then "cpu"; the disk follows.
        tied: Whether the output projection shares the embeddings' weight.
        scale: What a quantiser makes of the limits (bitsandbytes: 0.9).

    Returns:
        Device by unit: a number, "cpu" or "disk".
    """
    root = _tree(size)
    limits = {device: scale * top for device, top in _balanced(root, capacities).items()}
    order: list[int | str] = [*limits, "disk"]
    gpus = [device for device in limits if device != "cpu"]
    keep_room = {gpus[0], "cpu"} if gpus else {"cpu"}
    placed: DeviceMap = {}
    queue, used = list(root.children), 0.0
    while queue:
        module, device = queue.pop(0), order[0]
        room = max((other.largest() for other in queue), default=0.0) * (device in keep_room)
        if device == "disk" or used + module.size <= limits[device] - room:
            used += module.size
            placed.update(dict.fromkeys(_leaves(module), device))
        elif module.children:
            queue[:0] = module.children
        else:
            queue.insert(0, module)
            order.pop(0)
            used = 0.0
    if tied:
        placed[size.units.head] = placed[size.units.embeddings]
    return placed


def _balanced(root: _Module, capacities: Mapping[int | str, float]) -> dict[int | str, float]:
    """Limit every GPU but the last to an even share."""
    gpus = [device for device in capacities if device != "cpu"]
    share = root.size // max(len(gpus), 1) + int(1.25 * root.largest())
    limited = {device: min(share, capacities[device]) for device in gpus[:-1]}
    return {**capacities, **limited}


def _tree(size: Size) -> _Module:
    """Build the tree of a model's modules, down to what is never split."""
    units = {name: _Module(name, float(seen)) for name, seen in size.seen_bytes.items()}
    named = size.units
    layers = tuple(m for name, m in units.items() if name.startswith(named.layers))
    head = units.pop(named.head, None)
    inner = (
        units[named.embeddings],
        _Module(named.layers.removesuffix("."), sum(m.size for m in layers), layers),
        units[named.norm],
        units[named.rotary],
    )
    model = _Module("model", sum(m.size for m in inner), inner)
    children = (model, head) if head else (model,)
    return _Module("", sum(m.size for m in children), children)


def _leaves(module: _Module) -> list[str]:
    if not module.children:
        return [module.name]
    return [name for child in module.children for name in _leaves(child)]
