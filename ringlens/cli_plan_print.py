"""A plan as tables: parameters, memory, devices, what to change, how to start."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from ringlens.model.launch import FP8_MODEL, MODEL, Launch, commands
from ringlens.model.placement import LAYERS
from ringlens.model.size import KEPT, QUANTIZED
from ringlens.model.way import Way

if TYPE_CHECKING:
    from ringlens.model.placement import Load
    from ringlens.model.plan import Plan

TITLES = {
    "device_map": "One process, layers spread over the devices",
    "torchrun": "torchrun: a process for each GPU",
    "vllm": "vLLM server, routing returned with each answer",
}


def print_plan(plan: Plan, launch: Launch) -> None:
    """Print a plan; plain text where the output is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_parameters(plan))
    console.print(_memory(plan))
    for way in plan.ways:
        _print_way(console, plan, way, launch)
    if plan.changes:
        console.print("\n[bold]What to change[/bold]")
        for change in plan.changes:
            console.print(f"  {change.sentence}")
    elif plan.ways[0].fits:
        rooms = ", ".join(f"{name} {room:,}" for name, room in plan.largest.items())
        console.print(f"\nLargest that still fits, each for itself: {rooms}.")
    if plan.setting.work.context > plan.setting.config.max_position_embeddings:
        console.print(
            f"[yellow]The context is longer than the model's "
            f"{plan.setting.config.max_position_embeddings:,} positions.[/yellow]"
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
    size = plan.setting.size
    table = _table("Parameters", "kind", "parameters")
    for kind, count in size.parameters.items():
        table.add_row(kind, billions(count))
    table.add_row("total", billions(size.total), style="bold")
    table.add_row("active a token: all but the experts not chosen", billions(size.active))
    return table


def _memory(plan: Plan) -> Table:
    s, layers = plan.setting, plan.setting.config.num_hidden_layers
    peak = max(s.activations, key=lambda stage: s.activations[stage])
    largest = max(size for unit, size in s.size.weight_bytes.items() if unit.startswith(LAYERS))
    work, prefill = s.work, min(s.work.prefill, s.work.context)
    rows = [
        (f"weights, {s.held.name}", s.size.bytes),
        ("largest layer", largest),
        (f"keys and values, {work.batch} x {work.context:,} tokens", s.cache * layers),
        (f"working memory, {work.batch} x {prefill:,} tokens, at its {peak}", s.activations[peak]),
        ("recording, a sparse layer", s.recording.sparse_layer),
        ("recording, host (pinned)", s.recording.host),
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


def _print_way(console: Console, plan: Plan, way: Way, launch: Launch) -> None:
    verdict = "fits" if way.fits else "does not fit" if way.possible else "not possible"
    colour = "green" if way.fits else "red"
    sizes = (("tp", way.tp_size), ("ep", way.ep_size), ("pp", way.pp_size))
    shape = "".join(f", {name} {size}" for name, size in sizes if size > 1)
    console.print(f"\n[bold]{TITLES[way.name]}{shape}[/bold]: [{colour}]{verdict}[/{colour}]")
    if way.note:
        console.print(f"  {way.note.strip()}")
    if not way.possible:
        return
    console.print(_devices(way))
    if not way.fits:
        return
    for command in commands(plan, way, launch):
        console.print(command, soft_wrap=True, markup=False)
    printed = " ".join(commands(plan, way, launch))
    if f" {FP8_MODEL} " in printed:
        console.print(f"  (for {FP8_MODEL} put a checkpoint published in FP8)")
    elif f" {MODEL} " in printed:
        console.print(f"  (for {MODEL} put the folder or hub id of the weights)")


def _devices(way: Way) -> Table:
    columns = ("weights", "keys, values", "recording", "working", "fusing", "reserve", "used")
    table = _table("", "device", "holds", *columns, "free")
    for names, load in _alike(way.loads):
        sizes = (load.weights, load.cache, load.recording, load.working, load.fusing)
        cells = [gigabytes(size) for size in (*sizes, load.reserve, load.used, load.free)]
        style = "red" if load.free < 0 else None
        table.add_row(names, _held(load), *cells, style=style)
    return table


def _held(load: Load) -> str:
    """How many layers a device holds, and what else."""
    layers = [unit for unit in load.units if unit.startswith(LAYERS)]
    others = {"model.word_embeddings": "embeddings", "lm_head": "head"}
    named = [name for unit, name in others.items() if unit in load.units]
    return " + ".join([f"{len(layers)} layers", *named]) if load.units else "nothing"


def _alike(loads: Sequence[Load]) -> list[tuple[str, Load]]:
    """Neighbouring devices that hold as much of everything share a row."""

    def content(load: Load) -> tuple[object, ...]:
        return (load.device.capacity, _held(load), load.used, load.weights, load.device.is_gpu)

    rows = []
    for _, group in groupby(loads, key=content):
        alike = list(group)
        first, last = alike[0].device.name, alike[-1].device.name
        name = first if len(alike) == 1 else f"{first}–{last.removeprefix('gpu ')}"
        rows.append((name, alike[0]))
    return rows
