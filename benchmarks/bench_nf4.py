"""The experts of one layer in 4 bits for a few tokens: as modules, and in one launch.

python benchmarks/bench_nf4.py --model ring-1t-slice ring-mini --tokens 1 4 16 64

The launch is a CUDA graph, replayed; modules cannot be one, since the device is asked which experts
were chosen, so they are timed by the clock of the device around a call. The variants run in turn
over layers in turn, each with weights and choices of its own; medians of 20 with quartiles. The
bound is the time in which the bytes of the chosen experts, each once, could be read.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))
from bench_decode import PEAK
from bench_experts import choices, graph_of, milliseconds
from gpu_timing import device_line
from ring_sizes import FAMILY, SIZES

from ringlens.model import BailingMoeV2Config
from ringlens.model.kernels.nf4 import mixed_in_4_bits, packed_of
from ringlens.model.ring.moe import BailingMoeV2ExpertModules, mix_experts

ROUNDS = 20


def layer_of(config: BailingMoeV2Config, nested: bool) -> BailingMoeV2ExpertModules:
    """Experts in 4 bits, with random weights."""
    with torch.device("meta"):
        experts = BailingMoeV2ExpertModules(config)
    for expert in experts:
        for name in ("gate_proj", "up_proj", "down_proj"):
            plain = getattr(expert, name)
            kind = {"quant_type": "nf4", "compress_statistics": nested}
            made = bnb.nn.Linear4bit(
                plain.in_features, plain.out_features, bias=False, device="meta",
                compute_dtype=torch.bfloat16, **kind,
            )  # fmt: skip
            numbers = torch.randn(plain.weight.shape, device="cuda", dtype=torch.bfloat16)
            numbers *= plain.in_features**-0.5
            made.weight = bnb.nn.Params4bit(numbers, requires_grad=False, **kind).cuda()
            setattr(expert, name, made)
    return experts


def called(experts: BailingMoeV2ExpertModules, *given: Tensor) -> Tensor:
    """As modules, one by one."""
    return mix_experts(lambda expert, x: experts[expert](x), len(experts), *given)


def elapsed(calls: list[Callable[[], object]]) -> float:
    """Milliseconds of a call, of several in turn."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for call in calls:
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / len(calls)


def bytes_of(experts: BailingMoeV2ExpertModules) -> float:
    """Bytes of one expert, block scales included."""
    weights = [getattr(experts[0], name).weight for name in ("gate_proj", "up_proj", "down_proj")]
    return sum(w.nbytes + w.quant_state.absmax.nbytes for w in weights)


def compare(layers: list[BailingMoeV2ExpertModules], size: str, tokens: int) -> None:
    """Print one table."""
    D = layers[0][0].gate_proj.in_features
    work = [
        (torch.randn(tokens, D, device="cuda", dtype=torch.bfloat16),
         *choices(tokens, len(layer), FAMILY["num_experts_per_tok"]))
        for layer in layers
    ]  # fmt: skip
    distinct = statistics.mean(len(ids.unique()) for _, ids, _ in work)
    bound = distinct * bytes_of(layers[0]) / PEAK[torch.cuda.get_device_name()] * 1e3
    print(f"{size}, {tokens} tokens: {distinct:.0f} experts, bound {bound:.3f} ms", flush=True)
    modules = [lambda m=m, w=w: called(m, *w) for m, w in zip(layers, work, strict=True)]
    launch = [
        lambda m=m, w=w: mixed_in_4_bits(packed_of(m), *w)
        for m, w in zip(layers, work, strict=True)
    ]
    wanted, found = modules[0]().float(), launch[0]().float()
    if (gap := (found - wanted).abs().max() / wanted.abs().max()) > 0.02:
        raise RuntimeError(f"the launch differs by {gap:.3f}")
    graphs = [graph_of(call) for call in launch]
    times: dict[str, list[float]] = {"modules, one by one": [], "one launch": []}
    for _ in range(ROUNDS):
        times["modules, one by one"].append(elapsed(modules))
        times["one launch"].append(milliseconds(graphs))
    for name, each in times.items():
        low, middle, high = statistics.quantiles(each, n=4)
        print(f"  {name:22s} {middle:8.4f} ({low:.4f}-{high:.4f}) ms {middle / bound:7.2f}x bound")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["ring-1t-slice", "ring-mini"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--double", action="store_true", help="scales in 8 bits (nf4-double)")
    options = parser.parse_args()
    print(device_line())
    with torch.inference_mode():
        for size in options.model:
            config = BailingMoeV2Config(**(FAMILY | SIZES[size]))
            layers = [layer_of(config, options.double) for _ in range(2 if "1t" in size else 6)]
            for tokens in options.tokens:
                compare(layers, size, tokens)


if __name__ == "__main__":
    main()
