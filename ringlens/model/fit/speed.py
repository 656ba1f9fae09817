"""How fast a model should run in each layout, as ranges: a roofline of what a rank does.

The best case hides what can be hidden: the host launches kernels while the device computes. The
worst adds everything up at the worst rates that were measured. Measured figures lie within (a test
holds a table of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

from ringlens.model.fit.device_kind import DeviceKind, Span
from ringlens.model.fit.forward import Forward, Split, forward
from ringlens.model.fit.placement import Device
from ringlens.model.fit.scenario import Scenario
from ringlens.model.fit.strategy import Strategy, by_device_map, refusal, sharded

ONE, MAP = "one device", "device map"


@dataclass(frozen=True)
class Speed:
    """What to expect of a layout.

    Attributes:
        layout: "one device", "device map", "pp 4", "tp 4", "ep 4", "tp 4 + ep 4".
        strategy: What each device holds.
        prefill: Tokens a second of prompts, or of texts that are replayed.
        decoding: Tokens a second of all traces together, token by token.
        graph: The same by a CUDA graph; None where there is none.
        seconds: A batch of traces from their prompts to the end of the context.
    """

    layout: str
    strategy: Strategy
    prefill: Span
    decoding: Span
    graph: Span | None
    seconds: Span

    @property
    def fits(self) -> bool:
        """Whether every device has room."""
        return self.strategy.fits

    @property
    def middle(self) -> float:
        """Seconds of a batch to compare layouts by: between the best case and the worst."""
        return sqrt(self.seconds.best * self.seconds.worst)


def speeds(s: Scenario, devices: Sequence[Device], kind: DeviceKind) -> list[Speed]:
    """Expect a speed for every layout over some devices that loading accepts.

    Layers that wait in main memory are not counted, and such a layout is left out.
    """
    gpus = [device for device in devices if device.is_gpu]
    s = s.on(devices)
    found = []
    for name, strategy, split in _layouts(s, gpus or list(devices)):
        found.append(_speed(name, strategy, split, s, kind))
    return found


def fastest(found: Sequence[Speed]) -> Speed | None:
    """Choose among the layouts that fit the one that takes a batch through first."""
    return min((speed for speed in found if speed.fits), key=lambda x: x.middle, default=None)


def _layouts(s: Scenario, devices: Sequence[Device]) -> list[tuple[str, Strategy, Split]]:
    found = [(ONE, by_device_map(s, devices[:1]), Split())]
    n = len(devices)
    if n == 1:
        return found
    found.append((MAP, by_device_map(s, devices), Split()))
    for tp, ep, pp in ((1, 1, n), (n, 1, 1), (1, n, 1), (n, n, 1)):
        if not refusal(s, tp, ep, pp):
            sizes = (("tp", tp), ("ep", ep), ("pp", pp))
            name = " + ".join(f"{word} {size}" for word, size in sizes if size > 1)
            found.append((name, sharded(s, devices, tp, ep, pp), Split(tp, ep)))
    return found


def _speed(name: str, strategy: Strategy, split: Split, s: Scenario, kind: DeviceKind) -> Speed:
    work = s.work
    prompt = min(work.prefill, work.context)
    new = max(work.context - prompt, 0)
    prefill = seconds(forward(s, work.batch, prompt, prompt, split), kind)
    # The mean of all steps has as much in the cache as the one in their middle.
    done = forward(s, work.batch, 1, prompt + new // 2 + 1, split)
    eager = seconds(done, kind)
    places = strategy.loads[0].device.is_gpu and name != MAP and strategy.pp_size == 1
    can = replace(s, may_graph=places).graph
    graph = seconds(done, kind, graph=True) if can else None
    step = graph or eager
    return Speed(
        name,
        strategy,
        _rate(work.batch * prompt, prefill),
        _rate(work.batch, eager),
        None if graph is None else _rate(work.batch, graph),
        Span(prefill.best + new * step.best, prefill.worst + new * step.worst),
    )


def seconds(done: Forward, kind: DeviceKind, *, graph: bool = False) -> Span:
    """Turn what a rank does into the seconds that it takes, at best and at worst.

    Args:
        done: What it does.
        kind: On what.
        graph: Whether a CUDA graph launches its kernels.
    """

    def device(end: str) -> float:
        rate = {name: getattr(getattr(kind, name), end) for name in _RATES}
        return (
            max(done.products / rate["products"], done.read / rate["bandwidth"])
            + done.attention / rate["attention"]
            + done.moved / rate["bandwidth"]
            + done.sent / rate["link"]
            + done.messages * rate["message"]
        )

    spared = done.spared if kind.spares else 0.0
    if graph:
        kernels = done.graphed - spared
        best, worst = kernels * kind.graphed.best, kernels * kind.graphed.worst
    else:
        kernels = done.launches - spared
        best = kernels * kind.launch.best + done.divided * kind.dispatch.best
        worst = kernels * kind.launch.worst + done.divided * kind.dispatch.worst
    return Span(max(device("best"), best), device("worst") + worst)


_RATES = ("products", "attention", "bandwidth", "link", "message")


def _rate(tokens: int, time: Span) -> Span:
    return Span(tokens / time.best, tokens / time.worst)


def sentence(found: Sequence[Speed]) -> str:
    """Say which layout to take, and how sure that is; "" where none fits."""
    best = fastest(found)
    if best is None:
        return ""
    name = f"{best.layout}, decoding as a graph," if best.graph else best.layout
    others = [each for each in found if each.fits and each is not best]
    if not others:
        return f"{name} is the layout that fits."
    close = [x.layout for x in others if x.seconds.best <= best.seconds.worst]
    unsure = f"; ranges overlap with {', '.join(close)}: --measure narrows them" if close else ""
    copies = (
        ""
        if best.layout != ONE
        else (" A copy on each device shares the problems out: torchrun, and --device cuda.")
    )
    return f"{name} should be fastest{unsure}.{copies}"
