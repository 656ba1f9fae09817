"""Run under torchrun, or alone: interventions in several parallel layouts.

torchrun … intervene_worker.py MODEL OUT LAYOUT…      with LAYOUT as tp,ep,pp

Logits and effects of each process go to OUT/LAYOUT-RANK.pt, a capture to OUT/LAYOUT.
"""

import os
import sys
from pathlib import Path

import numpy as np
import session_worker
import torch
import torch.distributed as dist

import ringlens as rl

DIRECTION = np.linspace(-1, 1, 64)
TEXTS = session_worker.PROMPTS[:3]  # of different lengths
SETS = {
    "experts": [rl.Ablate(1, (3, 7)), rl.Boost(2, 5, 0.2), rl.Swap(3, (0, 9)), rl.Scale(2, 4, 0.0)],
    "force": [rl.Force((1, 3), 6, span=(1, 4)), rl.RouteAround(2, 1)],
    "stream": [rl.AblateHead(1, 2), rl.ScaleHead(3, 0, 0.5), rl.Steer(2, DIRECTION, by=0.3)],
    "nothing": [rl.Ablate(3, 5, span=(500, None))],
}
CAPTURED = [*SETS["experts"], rl.AblateHead(2, 3), rl.Ablate(3, 11, phase="think")]


def observe(lens):
    """Logits under each set, and what it changed."""
    found = {"plain": lens.run_with_cache(TEXTS, [])[0]}
    for name, acts in SETS.items():
        with lens.intervene(*acts) as effect:
            found[name] = lens.run_with_cache(TEXTS, [])[0]
        found[f"{name}: effect"] = str(effect)
    return found


def main():
    model, out, *layouts = sys.argv[1:]
    rank = os.environ.get("RANK", "0")
    for layout in layouts:
        tp, ep, pp = map(int, layout.split(","))
        lens = rl.load(model, dtype="float32", tp_size=tp, ep_size=ep, pp_size=pp)
        torch.save(observe(lens), Path(out) / f"{layout}-{rank}.pt")
        lens.model.generation_config.eos_token_id = 1_000_000
        rl.capture(
            lens, TEXTS, Path(out) / layout, max_new_tokens=12, interventions=CAPTURED
        ).close()
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
