"""A plan as tables (parameters, memory, devices, changes, commands) and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from ringlens.cli.console import harmless
from ringlens.cli.plan.speed import Expected, print_speed, speed_facts
from ringlens.model.fit.launch import FP8_MODEL, MODEL, Launch, commands
from ringlens.model.fit.scenario import DECODING, GRAPH
from ringlens.model.fit.size import KEPT, QUANTIZED
from ringlens.model.fit.strategy import Strategy
from ringlens.prune.checkpoint import Pruned, pruning_of

if TYPE_CHECKING:
    from ringlens.model.fit.placement import Load
    from ringlens.model.fit.plan import Plan
    from ringlens.model.sizes import Units

TITLES = {
    "device_map": "One process, layers spread over the devices",
    "torchrun": "torchrun: a process for each GPU",
    "vllm": "vLLM server, routing returned with each answer",
}
# Fields of each device in the JSON.
LOADED = ("reserve", "weights", "cache", "recording", "working", "fusing", "used", "free")


def print_plan(plan: Plan, launch: Launch, expected: Expected) -> None:
    """Print a plan and its speed; without colours if the output is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_parameters(plan))
    if pruned := _pruning(launch):
        console.print(_pruned_line(pruned), markup=False, soft_wrap=True)
    console.print(_memory(plan))
    for strategy in plan.strategies:
        _print_strategy(console, plan, strategy, launch)
    print_speed(console, plan, launch, expected)
    if plan.changes:
        console.print("\n[bold]What to change[/bold]")
        for change in plan.changes:
            console.print(f"  {change.sentence}")
    elif plan.strategies[0].fits:
        rooms = ", ".join(f"{name} {room:,}" for name, room in plan.largest.items())
        console.print(f"\nLargest that still fits, each for itself: {rooms}.")
    if plan.scenario.work.context > plan.scenario.model.positions:
        console.print(
            f"[yellow]The context is longer than the model's "
            f"{plan.scenario.model.positions:,} positions.[/yellow]"
        )


def _pruning(launch: Launch) -> Pruned | None:
    """What the folder of the model says of how it was pruned."""
    place = Path(launch.source).expanduser()
    return pruning_of(place.parent if place.is_file() else place)


def _pruned_line(pruned: Pruned) -> str:
    made, saved = pruned.plan, pruned.bytes_before - pruned.bytes
    return (
        f"Pruned from {harmless(made.model)}: {made.left} of {made.experts} experts a layer, by "
        f"{harmless(made.criterion)}; {gigabytes(pruned.bytes)} of weights in place of "
        f"{gigabytes(pruned.bytes_before)} ({saved / pruned.bytes_before:.1%} saved)."
    )


def gigabytes(size: float) -> str:
    """Bytes in GB = 10⁹, TB from 1,000 GB on, MB below 0.1 GB."""
    if abs(size) >= 1e12:
        return f"{size / 1e12:.3f} TB"
    if abs(size) >= 1e8:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.1f} MB" if size else "0"


def billions(count: int) -> str:
    """A number of parameters: 999.71B, or 20.3M."""
    return f"{count / 1e9:.2f}B" if count >= 1e8 else f"{count / 1e6:.2f}M"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _parameters(plan: Plan) -> Table:
    size = plan.scenario.size
    table = _table("Parameters", "kind", "parameters")
    for kind, count in size.parameters.items():
        table.add_row(kind, billions(count))
    table.add_row("total", billions(size.total), style="bold")
    table.add_row("active a token: all but the experts not chosen", billions(size.active))
    return table


def _memory(plan: Plan) -> Table:
    s, layers = plan.scenario, plan.scenario.model.layers
    peak = max(s.activations, key=lambda stage: s.activations[stage])
    weights = s.size.weight_bytes.items()
    largest = max(size for unit, size in weights if s.units.layer(unit) is not None)
    work, prefill = s.work, min(s.work.prefill, s.work.context)
    at_once = 1 if peak in (DECODING, GRAPH) else prefill
    rows = [
        (f"weights, {s.held.name}", s.size.bytes),
        ("largest layer", largest),
        (f"keys and values, {work.batch} x {work.context:,} tokens", s.cache * layers),
        (f"working memory, {work.batch} x {at_once:,} tokens, at its {peak}", s.activations[peak]),
        ("recording, a sparse layer", s.recording.sparse_layer),
        ("recording, main memory of a process", plan.host),
    ]
    if s.size.fusing_bytes:
        rows.append(("while loading: beside the layer being fused", s.size.fusing_bytes))
    table = _table("Memory", "what", "bytes")
    for what, size in rows:
        table.add_row(what, gigabytes(size))
    if s.held.quantization:
        table.caption = (
            f"{s.held.name}: {', '.join(QUANTIZED)}. In {s.held.dtype} stay: {', '.join(KEPT)}."
        )
        table.caption_justify = "left"
    return table


def _print_strategy(console: Console, plan: Plan, strategy: Strategy, launch: Launch) -> None:
    verdict = "fits" if strategy.fits else "does not fit" if strategy.possible else "not possible"
    colour = "green" if strategy.fits else "red"
    sizes = (("tp", strategy.tp_size), ("ep", strategy.ep_size), ("pp", strategy.pp_size))
    shape = "".join(f", {name} {size}" for name, size in sizes if size > 1)
    console.print(f"\n[bold]{TITLES[strategy.name]}{shape}[/bold]: [{colour}]{verdict}[/{colour}]")
    if strategy.note:
        console.print(f"  {strategy.note.strip()}")
    if not strategy.possible:
        return
    console.print(_devices(strategy, plan.scenario.units))
    if not strategy.fits:
        return
    for command in commands(plan, strategy, launch):
        console.print(command, soft_wrap=True, markup=False)
    printed = " ".join(commands(plan, strategy, launch))
    if f" {FP8_MODEL} " in printed:
        console.print(f"  (for {FP8_MODEL} put a checkpoint published in FP8)")
    elif f" {MODEL} " in printed:
        console.print(f"  (for {MODEL} put the folder or hub id of the weights)")


def _devices(strategy: Strategy, units: Units) -> Table:
    columns = ("weights", "keys, values", "recording", "working", "fusing", "reserve", "used")
    table = _table("", "device", "holds", *columns, "free")
    for names, load in _alike(strategy.loads, units):
        sizes = (load.weights, load.cache, load.recording, load.working, load.fusing)
        cells = [gigabytes(size) for size in (*sizes, load.reserve, load.used, load.free)]
        style = "red" if load.free < 0 else None
        table.add_row(names, _held(load, units), *cells, style=style)
    return table


def _held(load: Load, units: Units) -> str:
    """What a device holds: how many layers, and what beside them."""
    layers = [unit for unit in load.units if units.layer(unit) is not None]
    outside = ((units.embeddings, "embeddings"), (units.head, "head"))
    named = [name for unit, name in outside if unit in load.units]
    return " + ".join([f"{len(layers)} layers", *named]) if load.units else "nothing"


def _alike(loads: Sequence[Load], units: Units) -> list[tuple[str, Load]]:
    """Rows of devices: neighbours that hold the same amounts share one."""

    def content(load: Load) -> tuple[object, ...]:
        return (
            load.device.capacity,
            _held(load, units),
            load.used,
            load.weights,
            load.device.is_gpu,
        )

    rows = []
    for _, group in groupby(loads, key=content):
        alike = list(group)
        first, last = alike[0].device.name, alike[-1].device.name
        name = first if len(alike) == 1 else f"{first}–{last.removeprefix('gpu ')}"
        rows.append((name, alike[0]))
    return rows


def print_json(plan: Plan, launch: Launch, expected: Expected) -> None:
    """Print a plan and its speed as JSON."""
    click.echo(json.dumps({**report(plan, launch), "speed": speed_facts(expected)}, indent=2))


def report(plan: Plan, launch: Launch) -> dict[str, Any]:
    """All numbers of a plan and its commands as plain values, in bytes unless the name differs."""
    s, size = plan.scenario, plan.scenario.size
    return {
        "model": launch.source,
        "precision": s.held.name,
        "dtype": s.held.dtype,
        "quantization": s.held.quantization,
        "experts": s.layout,
        "stays_unquantized": list(KEPT if s.held.quantization else (*QUANTIZED, *KEPT)),
        "parameters": {"total": size.total, "active": size.active, **size.parameters},
        "weights": {
            "total": size.bytes,
            "sparse_layer": _layer(plan, sparse=True),
            "dense_layer": _layer(plan, sparse=False),
            "fusing": size.fusing_bytes,
        },
        "work": {
            "context": s.work.context,
            "batch": s.work.batch,
            "prefill": min(s.work.prefill, s.work.context),
            "max_position_embeddings": s.model.positions,
        },
        "cache": {"layer": s.cache, "total": s.cache * s.model.layers},
        "activations": {**s.activations, "peak": max(s.activations.values())},
        "recording": {
            "sparse_layer": s.recording.sparse_layer,
            "dense_layer": s.recording.dense_layer,
            "host": plan.host,
        },
        "devices": [{"name": d.name, "capacity": d.capacity} for d in plan.devices],
        "fits": plan.strategies[0].fits,
        "ways": [_strategy(plan, strategy, launch) for strategy in plan.strategies],
        "changes": [{"what": c.what, "value": c.value, "says": c.sentence} for c in plan.changes],
        "largest": plan.largest,
        **_pruning_facts(launch),
    }


def _pruning_facts(launch: Launch) -> dict[str, Any]:
    """How a pruned model was pruned; nothing of others."""
    pruned = _pruning(launch)
    if pruned is None:
        return {}
    facts: dict[str, Any] = {"model": pruned.plan.model, "criterion": pruned.plan.criterion}
    facts |= {"experts": pruned.plan.left, "experts_before": pruned.plan.experts}
    sizes = {"weights": pruned.bytes, "weights_before": pruned.bytes_before}
    return {"pruning": {**facts, **sizes}}


def _layer(plan: Plan, *, sparse: bool) -> int | None:
    """Bytes of one sparse or dense layer; None if there is none."""
    model, size = plan.scenario.model, plan.scenario.size
    chosen = model.sparse_layers if sparse else model.dense_layers
    return size.weight_bytes[f"{size.units.layers}{chosen[0]}"] if chosen else None


def _strategy(plan: Plan, strategy: Strategy, launch: Launch) -> dict[str, Any]:
    return {
        "name": strategy.name,
        "possible": strategy.possible,
        "fits": strategy.fits,
        "note": strategy.note,
        "tp_size": strategy.tp_size,
        "ep_size": strategy.ep_size,
        "pp_size": strategy.pp_size,
        "automatic": strategy.automatic,
        "device_map": strategy.device_map,
        "devices": [_load(load) for load in strategy.loads],
        "commands": commands(plan, strategy, launch),
    }


def _load(load: Load) -> dict[str, Any]:
    return {
        "name": load.device.name,
        "capacity": load.device.capacity,
        "units": list(load.units),
        **{name: getattr(load, name) for name in LOADED},
    }
