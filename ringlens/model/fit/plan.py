"""Whether a model fits, and what to change if it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ringlens.model.fit.placement import Device, fill, fits
from ringlens.model.fit.scenario import BITSANDBYTES, Scenario, empty_loads
from ringlens.model.fit.size import published_quantization
from ringlens.model.fit.strategy import Strategy, by_device_map, by_torchrun, by_vllm

COMMON = (80 * 10**9, 141 * 10**9)
FP8_NOTE = " (with a checkpoint published in FP8)"


@dataclass(frozen=True)
class Change:
    """One change after which the model fits (by device map)."""

    what: str
    value: int | str
    sentence: str


@dataclass(frozen=True)
class Plan:
    """A model over devices.

    Attributes:
        scenario: The model, its precision and its work.
        devices: The devices.
        strategies: By device map, by torchrun, by vLLM.
        changes: What would make it fit by device map; empty where it fits.
        largest: Largest context, batch and prefill that fit by device map, each for itself; 0 where
            none does.
    """

    scenario: Scenario
    devices: tuple[Device, ...]
    strategies: tuple[Strategy, ...]
    changes: tuple[Change, ...]
    largest: dict[str, int]

    @property
    def host(self) -> int:
        """Main memory that recording takes in each process, bytes."""
        recording = self.scenario.recording
        gpus = any(device.is_gpu for device in self.devices)
        return recording.host if gpus else recording.host_alone


def plan(scenario: Scenario, devices: Sequence[Device]) -> Plan:
    """Try every strategy, and look for changes where the first does not fit.

    On the CPU alone an FP8 checkpoint is planned for as it is loaded there: dequantised.
    """
    scenario = scenario.on(devices)
    strategies = tuple(
        strategy(scenario, devices) for strategy in (by_device_map, by_torchrun, by_vllm)
    )
    gpus = [d for d in devices if d.is_gpu] or list(devices)
    tops = {"context": scenario.model.positions, "batch": 4096, "prefill": 65536}
    room = {name: largest(scenario, gpus, name, top) for name, top in tops.items()}
    found = [] if strategies[0].fits else changes(scenario, gpus, room)
    return Plan(scenario, tuple(devices), strategies, tuple(found), room)


def changes(s: Scenario, gpus: Sequence[Device], room: dict[str, int]) -> list[Change]:
    """Try changes, and list those after which the model fits by device map.

    Args:
        s: What was planned for.
        gpus: The GPUs, or main memory alone.
        room: Largest context, batch and prefill that fit.
    """
    found = []
    for name, fitting in room.items():
        if 0 < fitting < getattr(s.work, name):
            found.append(Change(name, fitting, f"{name} {fitting:,} fits"))
    methods = () if published_quantization(s.config) else ("fp8", *BITSANDBYTES)
    others = [s.quantized(method) for method in methods]
    smaller = [other for other in others if other.size.bytes < s.size.bytes]
    for other in smaller:
        if fits(fill(other.needs, empty_loads(other, gpus))):
            name, note = other.held.name, FP8_NOTE if other.held.name == "fp8" else ""
            found.append(Change("quantization", name, f"{name} fits on these devices{note}"))
    eager = replace(s, may_graph=False)
    if s.graph and fits(fill(eager.needs, empty_loads(eager, gpus))):
        found.append(Change("decode", "eager", "decoding eagerly fits (--decode eager)"))
    apart = replace(s, layout="modules")
    can_be_apart = s.layout == "fused" and s.held.quantization is None
    if can_be_apart and fits(fill(apart.needs, empty_loads(apart, gpus))):
        found.append(
            Change("experts", "modules", "experts as modules fit: nothing is fused or copied")
        )
    for other in (s, *smaller):
        counts = [(capacity, gpus_needed(other, capacity)) for capacity in _sizes(gpus)]
        gpu_list = [f"{count} x {capacity / 1e9:.4g} GB" for capacity, count in counts if count]
        if gpu_list:
            value = " or ".join(gpu_list)
            found.append(Change("gpus", value, f"{other.held.name} fits on {value}"))
    return found


def _sizes(gpus: Sequence[Device]) -> list[int]:
    """List capacities worth naming: the smallest one given, and what larger cards have."""
    given = min(device.capacity for device in gpus)
    return [given, *(size for size in COMMON if size > given)]


def largest(s: Scenario, devices: Sequence[Device], name: str, top: int) -> int:
    """Find the largest context, batch or prefill up to ``top`` that fits; 0 where none does.

    Contexts and prefills are rounded down to multiples of 1,024 where they are above that.
    """

    def works(value: int) -> bool:
        change: dict[str, Any] = {name: value}
        other = replace(s, work=replace(s.work, **change))
        return fits(fill(other.needs, empty_loads(other, devices)))

    low, high = 0, top + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if works(middle) else (low, middle)
    return low // 1024 * 1024 if name != "batch" and 1024 <= low < top else low


def gpus_needed(s: Scenario, capacity: int) -> int | None:
    """Count the GPUs of a size that hold the model by device map; None where no number does."""
    devices = [Device(f"gpu {i}", capacity) for i in range(len(s.needs))]
    one = s.on(devices[:1])
    if fits(fill(one.needs, empty_loads(one, devices[:1]))):
        return 1
    s = s.on(devices)
    loads = fill(s.needs, empty_loads(s, devices))
    return sum(bool(load.units) for load in loads) if fits(loads) else None
