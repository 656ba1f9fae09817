"""Ring-1T's published shape over the GPUs of a machine: loaded, planned, timed, captured, checked.

python benchmarks/whole_ring.py --weights nf4                          # all 80 layers, one process
python benchmarks/whole_ring.py --weights bf16 --layers 9              # as many as fit
python benchmarks/whole_ring.py --weights fp8 --layers 18              # as published in FP8
torchrun --standalone --nproc-per-node 8 benchmarks/whole_ring.py --weights bf16 --layout tp
python benchmarks/whole_ring.py --cpu                                  # a tiny model, to try it

Weights are random numbers drawn on the GPUs while loading (random_checkpoint.py), never on disk.
--die kills the process in the midst of the capture; the same command without it then resumes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent))
import bench_decode
from bench_slice import RECORDS, Prefill, store_path, synchronize, table
from random_checkpoint import make_checkpoint, reading_random_numbers
from ring_sizes import SIZES, size_line

import ringlens as rl
from ringlens.lens import Lens
from ringlens.model.fit.memory import Workload
from ringlens.model.fit.placement import Device
from ringlens.model.fit.scenario import scenario
from ringlens.model.fit.strategy import Strategy, by_device_map
from ringlens.model.loading import read_config
from ringlens.observe.decoding.choice import Wanted, against
from ringlens.observe.kernels.attention_interface import register_attention
from ringlens.store.check.check import check

CONFIG = Path(__file__).parents[1] / "tests" / "configs" / "ring-1t.json"
LAYOUTS = ("device_map", "tp", "tp+ep", "pp")
QUANTIZATION = {"bf16": None, "nf4": "nf4", "nf4-double": "nf4-double", "fp8": None}
"""What `ringlens.load` is told of the weights; a checkpoint in FP8 says it itself."""
RECORD = ("logprobs", "routing", "router_logits", "head_blocks")


@dataclass(frozen=True)
class Work:
    """What is to be run.

    Attributes:
        prefill: Tokens of a text that is replayed.
        batches: Traces side by side, and the tokens that decoding then adds to each.
        new: Tokens that the capture adds.
        rounds: Rounds of each table.
    """

    prefill: int
    batches: dict[int, int]
    new: int
    rounds: int

    @property
    def workload(self) -> Workload:
        """The same for the plan; the prefill and the decoding take turns."""
        return Workload(self.prefill, 1, self.prefill)


def say(*parts: object) -> None:
    """Print on the first process."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(*parts, flush=True)


def planned(folder: Path, quantization: str | None, work: Workload) -> Strategy:
    """How the weights are spread over the GPUs of this machine."""
    gpus = [
        Device(f"gpu {i}", torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    ]
    return by_device_map(
        scenario(read_config(str(folder)), quantization=quantization, work=work), gpus
    )


def options_for(layout: str, processes: int, strategy: Strategy | None) -> dict[str, Any]:
    """What `ringlens.load` is told of a layout."""
    if layout == "device_map":
        return {"device_map": strategy.device_map} if strategy else {}
    sizes = {"tp": ("tp_size",), "tp+ep": ("tp_size", "ep_size"), "pp": ("pp_size",)}[layout]
    return dict.fromkeys(sizes, processes)


def show_memory(when: str, strategy: Strategy | None) -> None:
    """Peak memory of each GPU of this process until now, beside the plan; peaks begin anew."""
    rank = os.environ.get("LOCAL_RANK")
    own = range(torch.cuda.device_count()) if rank is None else [int(rank)]
    for i in own:
        free, total = torch.cuda.mem_get_info(i)
        line = f"  {when}, gpu {i}: peak {torch.cuda.max_memory_reserved(i) / 1e9:.1f} GB by "
        line += f"PyTorch, {(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB in use"
        if strategy:
            load = strategy.loads[i]
            line += f"; planned {load.used / 1e9:.1f}, weights {load.weights / 1e9:.1f}"
        print(line, flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for i in own:
        torch.cuda.reset_peak_memory_stats(i)


def prefill(lens: Lens, work: Work, folder: Path) -> None:
    """Plain against observed."""
    run = Prefill(lens, work.prefill, 1, folder)
    variants = {"plain": lambda: run.plain("sdpa")}
    for name in ("routing", "everything"):
        variants[name] = lambda n=name: run.observed("sdpa", RECORDS[n])
    table(
        f"prefill of {work.prefill} tokens", variants, dict.fromkeys(variants, "plain"), work.rounds
    )


def decode(lens: Lens, batch: int, new: int, rounds: int, folder: Path) -> None:
    """Plain ``generate`` against observed steps, called one by one and as a graph."""
    run, everything = bench_decode.Decode(lens, batch, new, 0.0, folder), RECORDS["everything"]
    variants: dict[str, Callable[[], float]] = {"generate": lambda: run.generate(new)}
    reason = next(against(Wanted(lens, everything, batch)), None)
    for name in ("eager", *(("graph",) if reason is None else ())):
        variants[f"{name}, everything"] = lambda n=name: run.observed(everything, n, new)
    say(f"decoding {new} tokens, batch {batch}" + (f"; no graph: {reason}" if reason else ""))
    bench_decode.table(variants, None, rounds)


class Death:
    """Kills the process behind a number of forwards."""

    def __init__(self, forwards: int) -> None:
        self.left = forwards

    def __call__(self, *_: object) -> None:
        """A forward has begun."""
        self.left -= 1
        if not self.left:
            say("killed")
            os.kill(os.getpid(), signal.SIGKILL)


def capture(lens: Lens, path: Path, new: int, die: bool) -> None:
    """A few traces into a store, and what `check` says of it."""
    start = time.perf_counter()
    done = Death(new // 2) if die else None
    store = rl.capture(
        lens, rl.problems("countdown", n=4), path, batch_size=4, record=RECORD,
        max_new_tokens=new, commit_every=2, temperature=1.0, on_progress=done,
    )  # fmt: skip
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    tokens = store.sql("select count(*) from tokens").fetchall()[0][0]
    resumed = store.sql("select count(*) from traces where len(resumed_at) > 0").fetchall()[0][0]
    say(
        f"captured {tokens} tokens, {size / 1e6:.1f} MB, in {time.perf_counter() - start:.1f} s; "
        f"{resumed} traces were resumed; check: {check(store).findings or 'nothing is wrong'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", choices=tuple(QUANTIZATION), default="nf4")
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--layout", choices=LAYOUTS, default="device_map")
    parser.add_argument("--parts", nargs="+", default=["prefill", "decode", "capture"])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[84, 84], help="of each batch")
    parser.add_argument("--new", type=int, default=128, help="tokens that the capture adds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="where the capture goes; it is resumed if there")
    parser.add_argument("--die", action="store_true", help="kill this process in the capture")
    parser.add_argument("--cpu", action="store_true", help="a tiny model")
    options = parser.parse_args()
    register_attention()
    batches = dict(zip(options.batch, options.steps, strict=True))
    work = Work(options.tokens, batches, options.new, options.rounds)
    changes: dict[str, Any] = {"num_hidden_layers": options.layers}
    if options.cpu:
        changes = SIZES["tiny"] | {"rotary_dim": 8, "first_k_dense_replace": 1}
        work = Work(256, {1: 24, 2: 24}, 64, 1)
    rank = os.environ.get("RANK", "0")
    with tempfile.TemporaryDirectory() as place:
        # A run that is resumed is of the same model: one name, though the files are made anew.
        made = Path(tempfile.gettempdir()) / f"random-ring-{options.layers}-{rank}"
        block = (16 if options.cpu else 128) if options.weights == "fp8" else None
        folder = make_checkpoint(made, CONFIG, block, **changes)
        quantization = QUANTIZATION[options.weights]
        strategy = None
        if options.layout == "device_map" and not options.cpu:
            strategy = planned(folder, quantization, work.workload)
            say(f"plan: {'fits' if strategy.fits else 'does not fit'}")
        start = time.perf_counter()
        with reading_random_numbers():
            lens = rl.load(
                str(folder), quantization=quantization, dtype="bfloat16", attention="sdpa",
                **options_for(options.layout, int(os.environ.get("WORLD_SIZE", "1")), strategy),
            )  # fmt: skip
        synchronize()
        say(
            f"{torch.cuda.device_count()} x "
            f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}, "
            f"{size_line(lens)}, {options.weights}, {options.layout}: loaded in "
            f"{time.perf_counter() - start:.0f} s"
        )
        show_memory("loading", strategy)
        run(lens, work, options, Path(place))
        show_memory("running", strategy)


def run(lens: Lens, work: Work, options: argparse.Namespace, folder: Path) -> None:
    """The parts asked for."""
    if "prefill" in options.parts:
        prefill(lens, work, folder)
    for batch, steps in work.batches.items() if "decode" in options.parts else ():
        decode(lens, batch, steps, work.rounds, folder)
    if "capture" in options.parts:
        capture(lens, options.store or store_path(folder), work.new, options.die)


if __name__ == "__main__":
    main()
