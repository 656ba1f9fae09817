"""What interventions and the record of expert outputs cost at Ring's real layer sizes.

python benchmarks/bench_intervene.py --model ring-1t-slice --parts prefill decode
python benchmarks/bench_intervene.py --cpu        # a tiny model on the CPU, to try the script

Observed runs write routing and router logits to a store in a temporary folder. The goal is 1.05 of
the observed run that neither intervenes nor records outputs ("/ own"). Each variant is at work in
every sparse layer of the slice, a share of layers that few experiments on a whole model have.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent))
from bench_slice import Decode, Prefill, Timed, in_store, synchronize, table, timed
from ring_sizes import random_lens, size_line
from side_by_side import machine

import ringlens as rl
from ringlens.interventions import Intervention
from ringlens.lens import Lens

RECORD = ("routing", "router_logits")


@dataclass(frozen=True)
class Variant:
    """Interventions of a run, and what is recorded beside the routing."""

    acts: tuple[Intervention, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def record(self) -> tuple[str, ...]:
        """All that is recorded."""
        return (*RECORD, *self.also)


def variants_of(lens: Lens) -> dict[str, Variant]:
    """Variants by name; the plain one first."""
    experts = lens.router.experts
    direction = np.random.default_rng(0).normal(size=lens.sizes.hidden_size)
    return {
        "observed": Variant(),
        "expert outputs": Variant(also=("expert_outputs",)),
        "ablate 2 experts": Variant((rl.Ablate(None, (3, 7)),)),
        "ablate 2 experts, in thoughts": Variant((rl.Ablate(None, (3, 7), phase="think"),)),
        "ablate a quarter": Variant((rl.Ablate(None, range(0, experts, 4)),)),
        "boost": Variant((rl.Boost(None, 3, 0.2),)),
        "boost, swap and scale": Variant(
            (rl.Boost(None, 3, 0.2), rl.Swap(None, (1, 2)), rl.Scale(None, 5, 0.5))
        ),
        "scale near a word": Variant((rl.Scale(None, 5, 0.5, words="wait", reach=8),)),
        "ablate a head": Variant((rl.AblateHead(None, 1),)),
        "steer": Variant((rl.Steer(None, direction, by=0.01),)),
    }


def prefill(work: Prefill, variant: Variant) -> Timed:
    """Replay the texts into a fresh store."""

    def run(path: Path) -> rl.Store:
        return rl.replay(
            work.lens, work.texts, path, batch_size=1, record=variant.record,
            interventions=variant.acts,
        )  # fmt: skip

    return timed(work.lens.model, work.n, lambda: in_store(run, work.folder))


def decode(work: Decode, variant: Variant) -> Timed:
    """Capture into a fresh store."""

    def run(path: Path) -> rl.Store:
        return rl.capture(
            work.lens, work.problems, path, batch_size=len(work.problems),
            record=variant.record, max_new_tokens=work.new, interventions=variant.acts,
        )  # fmt: skip

    return timed(work.lens.model, work.new + 1, lambda: in_store(run, work.folder))


def compared(
    title: str, found: dict[str, Variant], run: Callable[[Variant], Timed], rounds: int
) -> None:
    """Time variants in turn."""
    variants = {name: lambda v=each: run(v) for name, each in found.items()}
    table(title, variants, dict.fromkeys(variants, next(iter(found))), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ring-1t-slice")
    parser.add_argument("--parts", nargs="+", default=["prefill", "decode"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192])
    parser.add_argument("--texts", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="beside the observed run; else all")
    parser.add_argument("--folder", type=Path, help="where temporary stores go")
    parser.add_argument("--cpu", action="store_true", help="a tiny model, float32, short texts")
    options = parser.parse_args()
    start = time.perf_counter()
    if options.cpu:
        torch.set_num_threads(1)
        lens = random_lens("tiny", "cpu", torch.float32)
        options.tokens, options.new, options.batch = [256], 16, [2]
    else:
        lens = random_lens(options.model, "cuda")
    found = variants_of(lens)
    if options.only:
        found = {name: found[name] for name in ("observed", *options.only)}
    # No trace ends early: all variants run as many forwards.
    lens.model.generation_config.eos_token_id = 1_000_000
    synchronize()
    where = machine() if options.cpu else torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}; {size_line(lens)}; made in "
          f"{time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip
    for tokens in options.tokens if "prefill" in options.parts else ():
        work = Prefill(lens, tokens, options.texts, options.folder)
        compared(
            f"prefill of {options.texts} x {tokens} tokens",
            found, lambda variant, w=work: prefill(w, variant), options.rounds,
        )  # fmt: skip
    for batch in options.batch if "decode" in options.parts else ():
        steps = Decode(lens, batch, options.new, options.folder)
        compared(
            f"decoding {options.new} tokens, batch {batch}",
            found, lambda variant, s=steps: decode(s, variant), options.rounds,
        )  # fmt: skip


if __name__ == "__main__":
    main()
