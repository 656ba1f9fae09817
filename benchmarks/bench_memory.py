"""Peak device memory of captured batches against what ``ringlens plan`` says they take.

python benchmarks/bench_memory.py                    # batches 1, 16, 48 and the largest planned
torchrun --standalone --nproc-per-node 2 benchmarks/bench_memory.py --processes
python benchmarks/bench_memory.py --cpu              # a tiny model, to try the script

Each batch is captured with everything recorded, for as many tokens as fill a block of records.
"allocated" and "reserved" are PyTorch's peaks; "used" is the device's own figure afterwards, which
adds the CUDA context and what libraries take ("outside": used - reserved; the plan's reserve). The
plan's peaks are of loading or running, whichever is more: random weights are made in place, so
that only running is compared. --processes measures what lies outside PyTorch in each of several
processes (ring-nano, tensor parallel).
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
import ring_sizes
from bench_slice import RECORDS

import ringlens as rl
from ringlens.lens import Lens
from ringlens.model.fit.memory import Workload
from ringlens.model.fit.placement import Device, fill
from ringlens.model.fit.plan import largest
from ringlens.model.fit.scenario import Scenario, empty_loads, scenario
from ringlens.problem import Problem

MODEL, LAYERS, SMALL = "ring-1t-slice", 4, 110 * 10**9


def settings_of(lens: Lens, batch: int, context: int, prefill: int, decode: str) -> Scenario:
    """What is planned for."""
    dtype = str(lens.model.dtype).removeprefix("torch.")
    s = scenario(lens.config, dtype=dtype, work=Workload(context, batch, prefill))
    return replace(s, may_graph=decode != "eager")


def planned(s: Scenario, device: Device) -> tuple[int, int]:
    """Bytes while running, without and with the reserve."""
    (load,) = fill(s.needs, empty_loads(s, [device]))
    running = load.weights + load.cache + load.recording + load.working
    return running, running + load.reserve


def longest_prompt(lens: Lens, batch: int) -> int:
    """Tokens of the longest prompt of a batch."""
    return max(len(lens.encode_prompt(p.prompt)) for p in problems(batch))


def problems(n: int) -> list[Problem]:
    """As many problems as are asked for, of several kinds where one has too few."""
    kinds = [p for name in ("countdown", "products", "congruences", "graphs")
             for p in rl.problems(name)]  # fmt: skip
    if n > len(kinds):
        raise SystemExit(f"{n} problems wanted, there are {len(kinds)}: give --most")
    return kinds[:n]


def capture(lens: Lens, batch: int, new: int, decode: str) -> None:
    """Capture a batch, everything recorded."""
    with tempfile.TemporaryDirectory() as folder:
        rl.capture(
            lens,
            problems(batch),
            Path(folder) / "store",
            batch_size=batch,
            record=RECORDS["everything"],
            max_new_tokens=new,
            temperature=1.0,
            decode=decode,
        ).close()


def measure(lens: Lens, batch: int, new: int, decode: str, device: Device) -> None:
    """Capture a batch and print its memory beside the plan's."""
    prompt = longest_prompt(lens, batch)
    running, whole = planned(settings_of(lens, batch, prompt + new, prompt, decode), device)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    try:
        capture(lens, batch, new, decode)
    except torch.cuda.OutOfMemoryError as error:
        line = f"out of memory: {str(error).splitlines()[0]}"
        print(f"{batch:6d} {running / 1e9:8.1f} {whole / 1e9:8.1f} {line}", flush=True)
        return
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    outside = outside_pytorch()
    figures = (running, allocated, whole, reserved, reserved + outside, outside)
    print(
        f"{batch:6d} " + " ".join(f"{x / 1e9:9.2f}" for x in figures),
        f"{allocated / running - 1:+8.1%} {time.perf_counter() - start:6.1f} s",
        flush=True,
    )


def outside_pytorch() -> int:
    """Bytes used on the device beside what PyTorch keeps."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def edge(lens: Lens, new: int, decode: str, device: Device) -> int:
    """Largest batch that the plan says fits while running."""
    return largest(settings_of(lens, 1, 64 + new, 64, decode), [device], "batch", 4096)


def batches(lens: Lens, asked: list[int], new: int, decode: str, most: int) -> None:
    """Measure each batch, then the largest planned one."""
    _, total = torch.cuda.mem_get_info()
    device = Device("gpu 0", total)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {total / 1e9:.1f} GB")
    print(ring_sizes.size_line(lens))
    print(f"outside PyTorch at first: {outside_pytorch() / 1e9:.2f} GB")
    capture(lens, 1, 4, decode)  # libraries make their workspaces
    names = ("plan run", "allocated", "plan all", "reserved", "used", "outside")
    print(f"{'batch':>6s} " + " ".join(f"{name:>9s}" for name in names), "  alloc/plan")
    top = min(edge(lens, new, decode, device), most)
    for batch in [*(b for b in asked if b < top), top]:
        measure(lens, batch, new, decode, device)


def processes() -> None:
    """What lies outside PyTorch where ring-nano is divided over processes by NCCL."""
    rank, size = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(rank)
    before = outside_pytorch()
    lens = rl.load("ring-nano", tp_size=size, dtype="bfloat16")
    loaded = outside_pytorch()
    ids = torch.arange(4, 36, device=lens.device)[None].repeat(16, 1)
    with torch.inference_mode():
        lens.model.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=None)
    torch.cuda.synchronize()
    for turn in range(size):
        torch.distributed.barrier()
        if turn == rank:
            print(f"rank {rank} of {size}: outside PyTorch {before / 1e9:.2f} GB at first, "
                  f"{loaded / 1e9:.2f} GB loaded, {outside_pytorch() / 1e9:.2f} GB after "
                  f"generating", flush=True)  # fmt: skip
    torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL, choices=ring_sizes.SIZES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 48])
    parser.add_argument("--new", type=int, default=72, help="tokens a trace, 64 fill a block")
    parser.add_argument("--decode", choices=("auto", "graph", "eager"), default="auto")
    parser.add_argument("--most", type=int, default=4096, help="largest batch, whatever fits")
    parser.add_argument("--processes", action="store_true", help="under torchrun, see above")
    parser.add_argument("--cpu", action="store_true", help="a tiny model; plans, measures nothing")
    options = parser.parse_args()
    if options.processes:
        processes()
        return
    if options.cpu:
        lens = ring_sizes.random_lens("tiny", "cpu", torch.float32)
        device = Device("gpu 0", 10**10)
        capture(lens, 2, 8, options.decode)
        prompt = longest_prompt(lens, 2)
        for decode in ("graph", "eager"):
            s = settings_of(lens, 2, prompt + 8, prompt, decode)
            print(decode, planned(s, device), edge(lens, 8, decode, device))
        return
    slice_ = ring_sizes.SIZES[MODEL]
    if torch.cuda.mem_get_info()[1] < SMALL:  # an 80 GB card holds two sparse layers
        ring_sizes.SIZES[MODEL] = {**slice_, "num_hidden_layers": LAYERS - 1}
    lens = ring_sizes.random_lens(options.model, "cuda")
    batches(lens, options.batch, options.new, options.decode, options.most)


if __name__ == "__main__":
    main()
