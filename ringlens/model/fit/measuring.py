"""The roofline's parameters as this machine has them, and a short run of a real model.

Shape letters: N tokens, C head dimension.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ringlens.errors import ConfigError
from ringlens.model.family import sizes_of
from ringlens.model.fit.device_kind import KINDS, DeviceKind, kind_of
from ringlens.model.fit.forward import LAUNCHED, SPARED
from ringlens.model.fit.placement import Device
from ringlens.model.fit.scenario import Scenario
from ringlens.model.fit.speed import Speed, speeds
from ringlens.model.loading import load_model, locate

# Rounds of each measurement; the first is not counted.
ROUNDS = 5
# Steps of decoding that are timed together.
STEPS = 16
# Bytes that are copied, rows of the matrices, tokens of attention: on the CPU, on a GPU.
SIZES = {"cpu": (2**26, 768, 512), "cuda": (2**30, 8192, 8192)}
SMALL = "ring-nano"
"""A model so small that a step of it on a GPU is the launching of its kernels."""


@dataclass(frozen=True)
class Machine:
    """The machine at hand.

    Attributes:
        device: Where models compute.
        name: What the device calls itself.
        memory: Bytes of it; of the CPU those that are free.
    """

    device: torch.device
    name: str
    memory: int

    @property
    def kind(self) -> DeviceKind | None:
        """The kind that it is of, by its name or its memory."""
        if self.device.type == "cpu":
            return KINDS["cpu"]
        named = next((key for key in KINDS if key in self.name.lower()), None)
        return kind_of([Device("gpu 0", self.memory)], named)


def machine() -> Machine:
    """Look at the machine: its first GPU, or else the CPU."""
    if not torch.cuda.is_available():
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        return Machine(torch.device("cpu"), f"CPU, {torch.get_num_threads()} threads", free)
    found = torch.cuda.get_device_properties(0)
    return Machine(torch.device("cuda", 0), found.name, found.total_memory)


def measure(here: Machine) -> dict[str, float]:
    """Measure the parameters that one process can, by their names in `DeviceKind`.

    What takes several processes (messages, calls of divided modules) or a graph is left out.
    """
    size, n, N = SIZES[here.device.type]
    dtype = torch.float32 if here.device.type == "cpu" else torch.bfloat16
    block, copy = torch.ones(2, size, dtype=torch.uint8, device=here.device)
    a, b = (torch.randn(n, n, device=here.device).to(dtype) for _ in range(2))
    H, C = 8, 128
    q = torch.randn(1, H, N, C, device=here.device).to(dtype)
    found = {
        "bandwidth": 2 * size / _seconds(lambda: copy.copy_(block), here),
        "products": 2 * n**3 / _seconds(lambda: a @ b, here),
        "attention": 2 * H * C * N * N / _seconds(lambda: _attend(q), here),
        "launch": _launch(here),
    }
    if here.device.type == "cuda" and torch.cuda.device_count() > 1:
        there = torch.empty_like(block, device="cuda:1")
        found["link"] = size / _seconds(lambda: there.copy_(block), here)
    return found


def _attend(q: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q, is_causal=True)


def _launch(here: Machine) -> float:
    """Seconds of a kernel of a step that is nothing but launching: of ring-nano, one trace."""
    model: Any = load_model(SMALL, device=str(here.device))[0]
    _, step = _timed(model, 1, 16, here)
    spared = SPARED if here.device.type == "cuda" else 0
    return step / ((LAUNCHED - spared) * sizes_of(model.config).layers)


def _seconds(run: Callable[[], object], here: Machine) -> float:
    """The median time of a call, until the device has done it."""
    times = []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        run()
        _wait(here)
        times.append(time.perf_counter() - begin)
    return median(times[1:])


def _wait(here: Machine) -> None:
    if here.device.type == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def _timed(model: Any, rows: int, tokens: int, here: Machine) -> tuple[float, float]:
    """Seconds of a prefill, and of a step of ``generate`` behind it."""
    ids = torch.randint(5, model.config.vocab_size, (rows, tokens), device=here.device)
    mask = torch.ones_like(ids)

    def generate(new: int) -> Tensor:
        made: Tensor = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
        return made

    prefill = _seconds(lambda: generate(1), here)
    return prefill, max(_seconds(lambda: generate(1 + STEPS), here) - prefill, 1e-9) / STEPS


@dataclass(frozen=True)
class Run:
    """A short run of a model, beside what was expected of it.

    Attributes:
        tokens: Tokens of each prompt.
        batch: Traces side by side.
        prefill: Tokens a second.
        decoding: Tokens a second of all traces together, by ``generate``.
        expected: The roofline's ranges for the same.
    """

    tokens: int
    batch: int
    prefill: float
    decoding: float
    expected: Speed


def run(name: str, s: Scenario, here: Machine, kind: DeviceKind) -> Run:
    """Load a model on one device, and time a prefill and some steps.

    Args:
        name: What `ringlens.load` takes, with its weights on this machine.
        s: What was planned; its prompts are cut to what is measured in seconds.
        here: The machine.
        kind: What it is expected to do.

    Raises:
        ConfigError: The weights are not on this machine, or the model does not fit on the device.
    """
    place = locate(name)
    if not os.path.isdir(place):
        raise ConfigError(f"the weights of {name!r} are not on this machine.")
    tokens = min(s.work.prefill, s.work.context, SIZES[here.device.type][2])
    s = replace(s, work=replace(s.work, context=tokens + STEPS + 1, prefill=tokens))
    device = Device("cpu" if here.device.type == "cpu" else "gpu 0", here.memory)
    expected = speeds(s, [device], kind)[0]
    if not expected.fits:
        raise ConfigError(f"{name} does not fit on {here.name}.")
    model, _ = load_model(
        name,
        device=str(here.device),
        dtype=getattr(torch, s.held.dtype),
        quantization=s.held.quantization,
        experts=s.layout,
    )
    B = s.work.batch
    prefill, step = _timed(model, B, tokens, here)
    return Run(tokens, B, B * tokens / prefill, B / step, expected)
