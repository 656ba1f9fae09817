"""Devices that a model may be planned for, read from a line such as ``16x80GB``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ringlens.errors import ConfigError

UNITS = {
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
        unit = UNITS.get(found[4].upper()) if found else None
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
