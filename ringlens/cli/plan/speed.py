"""How fast a plan should run, and what was measured beside it, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from ringlens.cli.console import harmless
from ringlens.errors import ConfigError
from ringlens.model.fit.device_kind import KINDS, DeviceKind, Span, kind_of
from ringlens.model.fit.launch import MODEL, commands
from ringlens.model.fit.speed import ONE, Speed, fastest, sentence, speeds

if TYPE_CHECKING:
    from ringlens.model.fit.launch import Launch
    from ringlens.model.fit.measuring import Run
    from ringlens.model.fit.plan import Plan

UNITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "products": ("matrix products, TFLOP/s", lambda x: f"{x / 1e12:.3g}"),
    "attention": ("attention, TFLOP/s", lambda x: f"{x / 1e12:.3g}"),
    "bandwidth": ("memory, GB/s", lambda x: f"{x / 1e9:,.4g}"),
    "launch": ("launching a kernel, µs", lambda x: f"{x * 1e6:.3g}"),
    "link": ("between devices, GB/s", lambda x: f"{x / 1e9:,.4g}"),
}


@dataclass(frozen=True)
class Measured:
    """What ``--measure`` found.

    Attributes:
        machine: What was measured.
        expected: The kind that it is of.
        values: Parameters by name, in SI units.
        run: A run of the model; None where it was not loaded.
        why_not: Why not.
    """

    machine: str
    expected: DeviceKind
    values: dict[str, float]
    run: Run | None
    why_not: str = ""


@dataclass(frozen=True)
class Expected:
    """What to expect of a plan.

    Attributes:
        kind: Of the devices; None where none is known.
        layouts: A speed for each.
        measured: What was measured, if anything was.
    """

    kind: DeviceKind | None
    layouts: list[Speed]
    measured: Measured | None = None


def expect(plan: Plan, launch: Launch, named: str | None, *, measures: bool) -> Expected:
    """Expect speeds of a plan.

    Args:
        plan: The plan.
        launch: What its model is called.
        named: The kind of its devices; None to go by their memory.
        measures: Whether to measure this machine; plans for its kind of device then go by that.
    """
    kind = kind_of(plan.devices, named)
    found = _measure(plan, launch) if measures else None
    if found is not None and _is_here(plan, found, kind):
        kind = found.expected.measured(found.values)
    layouts = [] if kind is None else speeds(plan.scenario, plan.devices, kind)
    return Expected(kind, layouts, found)


def _is_here(plan: Plan, found: Measured, kind: DeviceKind | None) -> bool:
    """Tell whether the plan is for what was measured."""
    on_gpus = any(device.is_gpu for device in plan.devices)
    return on_gpus == (found.expected is not KINDS["cpu"]) and kind in (None, found.expected)


def _measure(plan: Plan, launch: Launch) -> Measured:
    from ringlens.model.fit.measuring import machine, measure, run

    here = machine()
    expected = here.kind
    if expected is None:
        raise ConfigError(
            f"{here.name} is no kind of GPU that figures are known of ({', '.join(KINDS)}), so "
            "there is nothing to compare with; leave --measure out."
        )
    values = measure(here)
    if launch.model == MODEL:
        return Measured(here.name, expected, values, None, "its weights are not here.")
    try:
        made = run(launch.model, plan.scenario, here, expected)
    except ConfigError as error:
        return Measured(here.name, expected, values, None, str(error))
    return Measured(here.name, expected, values, made)


def print_speed(console: Console, plan: Plan, launch: Launch, expected: Expected) -> None:
    """Print what to expect, how to start the fastest layout, and what was measured."""
    if expected.measured is not None:
        _print_measured(console, expected.measured)
    if expected.kind is None:
        console.print(
            f"\nSpeed: no figures of such GPUs; --kind {' or '.join(KINDS)} says what they are."
        )
        return
    title = f"Speed expected on {expected.kind.name}"
    console.print(f"\n[bold]{title}[/bold]: tokens a second, from the worst to the best")
    table = Table(box=box.SIMPLE)
    table.add_column("layout")
    for column in ("fits", "prefill", "decoding", "decoding as a graph"):
        table.add_column(column, justify="right")
    for each in expected.layouts:
        graph = "" if each.graph is None else _range(each.graph)
        fits = "yes" if each.fits else "no"
        table.add_row(each.layout, fits, _range(each.prefill), _range(each.decoding), graph)
    console.print(table)
    if said := sentence(expected.layouts):
        console.print(said, soft_wrap=True)
        for command in _start(plan, launch, expected.layouts):
            console.print(command, soft_wrap=True, markup=False)


def _start(plan: Plan, launch: Launch, found: list[Speed]) -> list[str]:
    """List the commands of the fastest layout where they are not those of a strategy above."""
    best = fastest(found)
    if best is None or best.strategy in plan.strategies:
        return []
    lines = commands(plan, best.strategy, launch)
    if best.layout != ONE:
        return lines
    # Of several GPUs a device map would take all.
    return [f"CUDA_VISIBLE_DEVICES=0 {line}" for line in lines]


def _print_measured(console: Console, found: Measured) -> None:
    console.print(f"\n[bold]Measured here[/bold]: {harmless(found.machine)}")
    table = Table(box=box.SIMPLE)
    for column in ("what", "expected", "measured", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, value in found.values.items():
        span: Span = getattr(found.expected, name)
        words, shown = UNITS[name]
        ends = sorted((span.best, span.worst))
        table.add_row(
            words, f"{shown(ends[0])} to {shown(ends[1])}", shown(value), _in(span, value)
        )
    if found.run is not None:
        run = found.run
        shape = f"{run.batch} x {run.tokens:,} tokens"
        for words, wanted, rate in (
            (f"prefill, {shape}, tokens/s", run.expected.prefill, run.prefill),
            (f"decoding, batch {run.batch}, tokens/s", run.expected.decoding, run.decoding),
        ):
            table.add_row(words, _range(wanted), _count(rate), _in(wanted, rate))
    console.print(table)
    if found.why_not:
        console.print(f"The model was not run: {found.why_not}", soft_wrap=True, markup=False)


def _in(span: Span, value: float) -> str:
    return "as expected" if span.holds(value) else "outside"


def _range(span: Span) -> str:
    return f"{_count(min(span.best, span.worst))} to {_count(max(span.best, span.worst))}"


def _count(rate: float) -> str:
    return f"{float(f'{rate:.2g}'):,.4g}" if rate < 1e4 else f"{float(f'{rate:.2g}'):,.0f}"


def speed_facts(expected: Expected) -> dict[str, Any]:
    """All numbers of what is expected and measured, as plain values."""
    best = fastest(expected.layouts)
    found = expected.measured
    facts: dict[str, Any] = {
        "kind": None if expected.kind is None else expected.kind.name,
        "fastest": None if best is None else best.layout,
        "layouts": [
            {
                "layout": each.layout,
                "fits": each.fits,
                **{name: _ends(getattr(each, name)) for name in ("prefill", "decoding", "graph")},
                "seconds_of_a_batch": _ends(each.seconds),
            }
            for each in expected.layouts
        ],
    }
    if found is not None:
        spans = {name: _ends(getattr(found.expected, name)) for name in found.values}
        facts["measured"] = {
            "machine": found.machine,
            "parameters": {
                name: {"measured": value, **(spans[name] or {})}
                for name, value in found.values.items()
            },
            "run": _run_facts(found),
        }
    return facts


def _run_facts(found: Measured) -> dict[str, Any]:
    if found.run is None:
        return {"not_run": found.why_not}
    run, expected = found.run, found.run.expected
    return {
        "batch": run.batch,
        "tokens": run.tokens,
        "prefill": {"measured": run.prefill, **(_ends(expected.prefill) or {})},
        "decoding": {"measured": run.decoding, **(_ends(expected.decoding) or {})},
    }


def _ends(span: Span | None) -> dict[str, float] | None:
    return None if span is None else {"worst": span.worst, "best": span.best}
