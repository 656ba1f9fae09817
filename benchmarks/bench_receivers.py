"""What attention between the steps of a long thought costs, beside reading the thought alone.

python benchmarks/bench_receivers.py --model ring-1t-slice --tokens 65536   # a CUDA GPU
python benchmarks/bench_receivers.py --cpu                                  # to try the script

The thought is read once in chunks, with nothing kept (plain), then by the probe "receivers". Both
run on the same model in turn. Memory is the peak above what the model itself takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

sys.path.append(str(Path(__file__).parent))
from ring_sizes import random_lens, size_line
from side_by_side import machine

from ringlens.lens import Lens
from ringlens.probes.chain.meter import Meter
from ringlens.probes.chain.prefix import run
from ringlens.probes.chain.probe import Subject
from ringlens.probes.chain.thought import Thought, ThoughtStep
from ringlens.probes.heads.receivers import Receivers
from ringlens.problem import Problem


def subject_of(lens: Lens, tokens: int, step: int) -> Subject:
    """A thought of random tokens, a step every so many, behind a prompt of one step's length."""
    ids = np.random.default_rng(0).integers(0, lens.sizes.vocabulary - 1, tokens)
    steps = tuple(
        ThoughtStep(number, first, min(first + step, tokens), "", None)
        for number, first in enumerate(range(step, tokens, step))
    )
    thought = Thought(
        run_id="", trace_id=1, problem=Problem("", "text", ""), answer=None, text="",
        token_ids=tuple(ids.tolist()), n_prompt=step, starts=(), steps=steps, answer_first=None,
    )  # fmt: skip
    return Subject(lens, thought, None, 1, Meter())


def read(subject: Subject, chunk: int) -> None:
    """Read the thought in chunks, nothing watched."""
    ids, cache = subject.thought.token_ids, DynamicCache(config=subject.lens.config)
    for first in range(0, len(ids), chunk):
        run(subject.lens, subject.meter, [ids[first : first + chunk]], cache, logits_to_keep=1)


def timed(work: Callable[[], object], cuda: bool) -> tuple[float, float]:
    """Seconds, and the peak of memory above the start in GiB (on CUDA)."""
    before = 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() - before if cuda else 0
    return seconds, peak / 2**30


def main() -> None:
    """Print medians with quartiles, and ratios of the pairs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ring-1t-slice")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--step", type=int, default=24, help="tokens of a step")
    parser.add_argument("--permutations", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="a tiny model on the CPU")
    asked = parser.parse_args()
    size, device, tokens = asked.model, "cuda", asked.tokens
    if asked.cpu:
        size, device, tokens = "tiny", "cpu", 1500
    lens = random_lens(size, device)
    subject = subject_of(lens, tokens, asked.step)
    probe = Receivers(permutations=asked.permutations, pairs=0)
    variants = {
        "plain": lambda: read(subject, probe.chunk),
        "receivers": lambda: list(probe.measure(subject)),
    }
    print(machine())
    print(size_line(lens))
    print(f"{tokens:,} tokens, {len(subject.thought.steps):,} steps, chunks of {probe.chunk:,}")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for turn in range(asked.rounds + 1):  # the first is left out: kernels are chosen in it
        for name, work in variants.items():
            found = timed(work, not asked.cpu)
            if turn:
                times[name].append(found)
    for name, found in times.items():
        seconds, peaks = np.array(found).T
        low, middle, high = np.percentile(seconds, [25, 50, 75])
        print(f"{name:10} {middle:8.2f} s ({low:.2f} to {high:.2f}), {peaks.max():.2f} GiB")
    ratios = np.array([b[0] / a[0] for a, b in zip(*times.values(), strict=True)])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(f"receivers / plain {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
