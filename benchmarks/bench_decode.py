"""Decoding beside the bandwidth bound: plain ``generate``, a plain graph, an observed graph.

python benchmarks/bench_decode.py --model ring-mini --batch 1 16
python benchmarks/bench_decode.py --model ring-1t-slice --batch 1 16
python benchmarks/bench_decode.py --cpu       # a tiny model on the CPU, to try the script

Milliseconds a step are those between two steps of one run, with everything launched until then done
on the device: prefill, the making of the graph and the last commit are left out. The variants run
in turn; medians and quartiles over the rounds. The bound is the time in which the bytes that a step
must read could be read: dense weights once, each expert that some row chose once (the number that
independent rows would choose), and keys and values of all rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig

sys.path.append(str(Path(__file__).parent))
from bench_slice import RECORDS, in_store, synchronize
from ring_sizes import random_lens, size_line
from side_by_side import machine

import ringlens as rl
from ringlens.config import Sampling
from ringlens.lens import Lens
from ringlens.observe.batch import left_pad
from ringlens.observe.decoding.generating import AsItStands, MakeRunner, plainly
from ringlens.observe.decoding.graph import AsGraph

# Bytes a second that the memory of a card gives, by its data sheet.
PEAK = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}
# Steps before time is taken.
WARM = 20


class Clock:
    """Takes the time between two steps of a run."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.steps, self.times = first, last, 0, [0.0, 0.0]

    def tick(self, *_: object) -> None:
        """A step begins."""
        for place, number in enumerate((self.first, self.last)):
            if self.steps == number:
                synchronize()
                self.times[place] = time.perf_counter()
        self.steps += 1

    @property
    def ms(self) -> float:
        """Milliseconds a step."""
        if self.steps <= self.last:
            raise RuntimeError(f"{self.steps} steps, of which the last should be {self.last}")
        return (self.times[1] - self.times[0]) / (self.last - self.first) * 1e3


class Decode:
    """Generating a number of tokens after short prompts, in several ways."""

    def __init__(
        self, lens: Lens, batch: int, new: int, temperature: float, folder: Path | None
    ) -> None:
        self.lens, self.new, self.folder = lens, new, folder
        self.settings = Sampling(new, temperature)
        self.problems = rl.problems("countdown", n=batch)
        prompts = [lens.encode_prompt(problem.prompt) for problem in self.problems]
        self.ids, self.mask = left_pad(prompts, lens.pad_token_id, lens.device)

    def generate(self, steps: int, experts: str | None = None) -> float:
        """Transformers' ``generate``, fewer steps of it; with an implementation of experts."""
        clock = Clock(WARM, steps - 1)
        own = self.lens.config._experts_implementation
        if experts is not None:
            self.lens.model.set_experts_implementation(experts)
        handle = self.lens.model.register_forward_pre_hook(clock.tick)
        config = GenerationConfig(
            max_new_tokens=steps,
            do_sample=self.settings.temperature > 0,
            eos_token_id=list(self.lens.eos_token_ids),
            pad_token_id=self.lens.pad_token_id,
        )
        try:
            with torch.inference_mode():
                self.lens.model.generate(
                    self.ids, attention_mask=self.mask, generation_config=config
                )
        finally:
            handle.remove()
            if experts is not None:
                self.lens.model.set_experts_implementation(own)
        return clock.ms

    def plain(self, make: MakeRunner) -> float:
        """The repeated step, unobserved."""
        clock = Clock(WARM, self.new - 1)
        plainly(self.lens, self.ids, self.mask, self.settings, make, clock.tick)
        return clock.ms

    def observed(self, record: tuple[str, ...], decode: str, steps: int) -> float:
        """Captured into a fresh store."""
        clock = Clock(WARM, steps - 1)

        def run(path: Path) -> rl.Store:
            return rl.capture(
                self.lens,
                self.problems,
                path,
                batch_size=len(self.problems),
                record=record,
                max_new_tokens=steps,
                temperature=self.settings.temperature,
                on_progress=clock.tick,
                decode=decode,
            )

        in_store(run, self.folder)
        return clock.ms


def bound_bytes(lens: Lens, batch: int, positions: int) -> float:
    """Bytes that a step of a batch must read."""
    rule, sizes = lens.router, lens.sizes
    shares = {"experts": 1 - (1 - rule.experts_per_token / rule.experts) ** batch}
    read = 0.0
    for name, parameter in lens.model.named_parameters():
        share = next((s for key, s in shares.items() if f".{key}." in name), 1.0)
        if "embeddings" in name:
            share = batch / parameter.shape[0]
        read += share * parameter.numel() * parameter.element_size()
    item = lens.model.dtype.itemsize
    return read + 2 * batch * positions * sizes.layers * sizes.kv_heads * sizes.head_dim * item


def table(variants: dict[str, Callable[[], float]], bound: float | None, rounds: int) -> None:
    """Run variants in turn; print medians, quartiles, and ratios to the first and to the bound."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds):
        for name, run in variants.items():
            found[name].append(run())
            print(f"    {turn} {name}: {found[name][-1]:.3f}", file=sys.stderr, flush=True)
    first = next(iter(found.values()))
    print(f"  {'':34s} {'ms a step':>24s} {'tokens/s':>9s} {'faster':>8s} {'/ bound':>8s}")
    for name, times in found.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        gain = statistics.median(a / b for a, b in zip(first, times, strict=True))
        over = "" if bound is None else f"{middle / bound:7.2f}x"
        print(
            f"  {name:34s} {middle:8.3f} ({low:6.3f}-{high:6.3f}) {1e3 / middle:9.1f} "
            f"{gain:7.2f}x {over}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ring-mini")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new", type=int, default=256, help="steps by graph")
    parser.add_argument("--eager", type=int, default=64, help="steps of generate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--records", nargs="+", default=["routing", "everything"])
    parser.add_argument("--folder", type=Path, help="where temporary stores go")
    parser.add_argument("--cpu", action="store_true", help="a tiny model, float32")
    options = parser.parse_args()
    lens = random_lens("tiny" if options.cpu else options.model, "cpu" if options.cpu else "cuda",
                       torch.float32 if options.cpu else torch.bfloat16)  # fmt: skip
    card = machine() if options.cpu else torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}; {size_line(lens)}", flush=True)
    peak = PEAK.get(card)
    own = lens.config._experts_implementation
    make, decode = (AsItStands, "eager") if options.cpu else (AsGraph, "graph")
    for batch in options.batch:
        work = Decode(lens, batch, options.new, options.temperature, options.folder)
        read = bound_bytes(lens, batch, work.ids.shape[1] + options.new // 2)
        bound = None if peak is None else read / peak * 1e3
        print(f"batch {batch}, temperature {options.temperature}: a step must read "
              f"{read / 1e9:.2f} GB" + (f", {bound:.3f} ms" if bound else ""))  # fmt: skip
        variants: dict[str, Callable[[], float]] = {
            "generate": lambda w=work: w.generate(options.eager, "grouped_mm"),
            "generate, weights in place": lambda w=work: w.generate(options.eager, own),
            "graph": lambda w=work: w.plain(make),
        }
        for name in options.records:
            variants[f"graph, {name}"] = lambda w=work, n=name: w.observed(
                RECORDS[n], decode, options.new
            )
        table(variants, bound, options.rounds)
    if torch.cuda.is_available():
        print(f"most device memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
