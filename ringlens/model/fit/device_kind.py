"""What a kind of device can do, as ranges: the parameters of the roofline, and where each is from.

A range goes from the best that the device can do (a datasheet's peak, or the best that was seen) to
the worst that was measured in whole models. docs/plan.md tells which figure each is from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from ringlens.errors import ConfigError
from ringlens.model.fit.placement import Device


@dataclass(frozen=True)
class Span:
    """The best and the worst value of a parameter, in its unit."""

    best: float
    worst: float

    def holds(self, value: float) -> bool:
        """Tell whether a value lies within."""
        return min(self.best, self.worst) <= value <= max(self.best, self.worst)

    def around(self, best: float) -> Span:
        """Give a range as wide as this one, whose best value is another."""
        return Span(best, best * self.worst / self.best)


@dataclass(frozen=True)
class DeviceKind:
    """A kind of device, and the host that drives it.

    Attributes:
        name: What people call it.
        products: Operations a second of matrix products, in 16 bits (on the CPU in float32).
        attention: Operations a second of fused causal attention.
        bandwidth: Bytes a second from and to its memory.
        launch: Seconds that Python takes to launch a kernel (on the CPU: to begin an operation).
        graphed: Seconds of a small kernel inside a CUDA graph.
        dispatch: Seconds that a call of a module takes in Python whose weights are divided.
        link: Bytes a second between two of them, one way.
        message: Seconds of a collective beside its bytes.
        spares: Whether steps of few rows take fewer kernels, made for them.
    """

    name: str
    products: Span
    attention: Span
    bandwidth: Span
    launch: Span
    graphed: Span
    dispatch: Span
    link: Span
    message: Span
    spares: bool = True

    def measured(self, values: dict[str, float]) -> DeviceKind:
        """Take measured values as the best ones, with ranges as wide as before.

        Args:
            values: Parameters by name; those that were not measured stay as they are.
        """
        known = {field.name for field in fields(self)} & set(values)
        spans = {name: getattr(self, name).around(values[name]) for name in known}
        return replace(self, name=f"{self.name}, as measured here", **spans)


# Parts of the peaks that whole models reached on an H200 (docs/performance.md): grouped and dense
# products together 0.33 to 0.8 of 989 TFLOP/s; attention 0.2 (2,048 tokens) to 0.67 (32,768) of it;
# weights read by kernels of ours and by copies 0.75 to 1 of 4.8 TB/s.
PRODUCTS, ATTENTION, BANDWIDTH = Span(0.8, 0.33), Span(0.67, 0.2), Span(1.0, 0.75)
# Seconds a kernel that Python launches: steps of Ring-mini and of the slice of Ring-1T by generate
# took 28 to 54 ms and 6.4 to 12 ms for about 97 kernels a layer, and 25 and 6.2 ms for 55; 6,202
# kernels of eight layers and tokens took 135 ms of wall time.
LAUNCH = Span(14e-6, 30e-6)
# The same steps as graphs, about 70 kernels a layer: 2.65 to 5.2 ms; about 28: 1.97 and 2.12 ms.
GRAPHED = Span(1.8e-6, 3.6e-6)
# Ring-flash on four H200 took 167 ms a step by TP 4 + EP 4, and 77 by a device map: 90 ms more for
# six divided modules a layer.
DISPATCH = Span(0.15e-3, 0.6e-3)
# NCCL between GPUs of one machine: not measured by ringlens; parts of NVLink's rate one way.
LINK, MESSAGE = Span(0.85, 0.3), Span(15e-6, 80e-6)


def of_peaks(name: str, *, products: float, bandwidth: float, link: float) -> DeviceKind:
    """Describe a GPU by its peaks and the parts of them that models reached on an H200."""

    def part(peak: float, span: Span) -> Span:
        return Span(peak * span.best, peak * span.worst)

    return DeviceKind(
        name,
        products=part(products, PRODUCTS),
        attention=part(products, ATTENTION),
        bandwidth=part(bandwidth, BANDWIDTH),
        launch=LAUNCH,
        graphed=GRAPHED,
        dispatch=DISPATCH,
        link=part(link, LINK),
        message=MESSAGE,
    )


KINDS: dict[str, DeviceKind] = {
    # NVIDIA's datasheets: dense bfloat16, memory, half of NVLink's two-way rate.
    "h200": of_peaks("H200", products=989e12, bandwidth=4.8e12, link=450e9),
    "h100": of_peaks("H100", products=989e12, bandwidth=3.35e12, link=450e9),
    "a100": of_peaks("A100", products=312e12, bandwidth=2.04e12, link=300e9),
    # One thread of a server's CPU and its memory. Steps of ring-nano took 3.8 ms on one (batch 16:
    # 10), and 23 ms of CPU time on another that other jobs shared.
    "cpu": DeviceKind(
        "CPU",
        products=Span(60e9, 12e9),
        attention=Span(30e9, 4e9),
        bandwidth=Span(20e9, 5e9),
        launch=Span(3e-6, 35e-6),
        graphed=Span(3e-6, 35e-6),
        dispatch=DISPATCH,
        link=Span(5e9, 0.3e9),
        message=Span(50e-6, 2e-3),
        spares=False,
    ),
}


def kind_of(devices: Sequence[Device], named: str | None = None) -> DeviceKind | None:
    """Tell the kind of some devices by the memory of the smallest, or by its name.

    Args:
        devices: The devices.
        named: A name in `KINDS`; None to go by the memory.

    Returns:
        None for a GPU that the memory does not tell: below 70 GB, or above 150 GB.

    Raises:
        ConfigError: An unknown name.
    """
    if named is not None:
        if named not in KINDS:
            raise ConfigError(f"kind = {named!r}; it must be {', '.join(KINDS)}.")
        return KINDS[named]
    gpus = [device.capacity for device in devices if device.is_gpu]
    if not gpus:
        return KINDS["cpu"]
    # An A100 has as much as an H100, which is the commoner one by now.
    if 70e9 <= min(gpus) < 120e9:
        return KINDS["h100"]
    return KINDS["h200"] if 120e9 <= min(gpus) <= 152e9 else None
