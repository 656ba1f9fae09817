"""The experts of one layer for a few tokens: copied, grouped, and read in place.

python benchmarks/bench_experts.py --model ring-1t-slice ring-mini --tokens 1 4 16 64 128
python benchmarks/bench_experts.py --tiles          # and other tiles of our kernels

Each is a CUDA graph of one call, replayed; the variants run in turn; medians of 30. Weights that
stay in the cache between calls would flatter, so the calls go through layers in turn, each with
weights and choices of its own. The bound is the time in which the weights of the chosen experts,
each once, could be read.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers.integrations import moe
from triton.runtime.errors import OutOfResources

sys.path.append(str(Path(__file__).parent))
from bench_decode import PEAK
from gpu_timing import device_line
from ring_sizes import FAMILY, SIZES

from ringlens.model import BailingMoeV2Config
from ringlens.model.kernels.experts import MOST_CHOICES, in_place
from ringlens.model.kernels.experts_triton import Tile, expert_outputs, mixed
from ringlens.model.ring.moe import BailingMoeV2Experts

ROUNDS = 30


def layers_of(size: str, count: int) -> list[BailingMoeV2Experts]:
    """Experts of some layers, with random weights."""
    config = BailingMoeV2Config(**(FAMILY | SIZES[size]), dtype=torch.bfloat16)
    made = []
    for _ in range(count):
        with torch.device("meta"):
            experts = BailingMoeV2Experts(config).to(torch.bfloat16)
        experts.to_empty(device="cuda").requires_grad_(False)
        for weight in (experts.gate_up_proj, experts.down_proj):
            for part in weight.unbind(0):
                part.normal_(0.0, part.shape[-1] ** -0.5)
        made.append(experts)
    return made


def choices(tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor]:
    """Random ids and weights [N, k]."""
    ids = torch.rand(tokens, experts, device="cuda").topk(k).indices
    return ids, torch.rand(tokens, k, device="cuda")


def graph_of(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of a call, which ran twice before."""
    call(), call()
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    gc.disable()  # an older graph that ends while one is laid down would spoil it
    try:
        with torch.cuda.graph(graph):
            call()
    finally:
        gc.enable()
    return graph


def milliseconds(graphs: list[torch.cuda.CUDAGraph]) -> float:
    """Time of one, of several replayed in turn."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for graph in graphs:
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / len(graphs)


def variants(tiles: bool) -> dict[str, Callable[..., Tensor]]:
    """What runs the experts, by name."""
    found: dict[str, Callable[..., Tensor]] = {
        "batched_mm (copies)": moe.batched_mm_experts_forward,
        "grouped_mm": moe.grouped_mm_experts_forward,
        "in place": in_place,
    }
    if tiles:
        for out, over, warps, stages in itertools.product((16, 32, 64), (128, 256), (4, 8), (3, 5)):
            tile = Tile(out, over, warps, stages)

            def run(
                m: BailingMoeV2Experts, h: Tensor, i: Tensor, w: Tensor, t: Tile = tile
            ) -> Tensor:
                return mixed(expert_outputs(h, i, m.gate_up_proj, m.down_proj, t, t), w)

            found[f"  tile {out} x {over}, {warps} warps, {stages} stages"] = run
    return found


def compare(layers: list[BailingMoeV2Experts], size: str, tokens: int, tiles: bool) -> None:
    """Print one table."""
    E, _, D = layers[0].gate_up_proj.shape
    work = [(m, torch.randn(tokens, D, device="cuda", dtype=torch.bfloat16),
             *choices(tokens, E, FAMILY["num_experts_per_tok"])) for m in layers]  # fmt: skip
    each = sum(
        w[0].numel() * w.element_size() for w in (layers[0].gate_up_proj, layers[0].down_proj)
    )
    distinct = statistics.mean(len(ids.unique()) for _, _, ids, _ in work)
    bound = distinct * each / PEAK[torch.cuda.get_device_name()] * 1e3
    print(f"{size}, {tokens} tokens: {distinct:.0f} experts, bound {bound:.3f} ms", flush=True)
    runs, wanted = {}, None
    for name, call in variants(tiles).items():
        try:
            first = call(*work[0]).float()
            runs[name] = [graph_of(lambda c=call, w=w: c(*w)) for w in work]
        except (torch.OutOfMemoryError, OutOfResources) as error:
            print(f"  {name}: {str(error)[:70]}")
            continue
        wanted = first if wanted is None else wanted
        if (gap := (first - wanted).abs().max() / wanted.abs().max()) > 0.02:
            raise RuntimeError(f"{name} differs by {gap:.3f}")
    times = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, graphs in runs.items():
            times[name].append(milliseconds(graphs))
    shown = sorted(times.items(), key=lambda pair: statistics.median(pair[1]))
    for name, found in [pair for pair in times.items() if pair[0][0] != " "] + [
        pair for pair in shown if pair[0][0] == " "
    ][:4]:
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"  {name:44s} {middle:8.4f} ({low:.4f}-{high:.4f}) ms {middle / bound:6.2f}x bound")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["ring-1t-slice", "ring-mini"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 64, 128])
    parser.add_argument("--tiles", action="store_true")
    options = parser.parse_args()
    print(device_line())
    with torch.inference_mode():
        for size in options.model:
            layers = layers_of(size, 2 if size.startswith("ring-1t") else 8)
            for tokens in options.tokens:
                if tokens * FAMILY["num_experts_per_tok"] <= MOST_CHOICES:
                    compare(layers, size, tokens, options.tiles and tokens in (1, 16))


if __name__ == "__main__":
    main()
