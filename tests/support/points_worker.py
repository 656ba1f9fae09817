"""Run under torchrun: run_with_cache and run_with_hooks in several parallel layouts.

torchrun … points_worker.py FOLDER OUT LAYOUT…      with LAYOUT as tp,ep,pp
"""

import sys
from pathlib import Path

import tiny_lens
import torch
import torch.distributed as dist

import ringlens as rl
from ringlens.errors import ObservationError

TEXT = tiny_lens.prompt(74, 276, 166, 285, 103, 65)


def steer(x, hook):
    x[..., 13] = 30.0


def force(x, hook):
    return torch.full_like(x, 9)


def ablate(x, hook):
    x[:, :, 2] = 0


CHANGES = {
    "steer": [("blocks.2.mlp.gate.hook_out", steer)],
    "force": [("blocks.2.mlp.gate.hook_indices", force)],
    "ablate": [("blocks.1.attn.hook_z", ablate)],
}


def observe(lens):
    """All that the doors show of one forward; whether tracing and stopping are refused."""
    logits, cache = lens.run_with_cache(TEXT)
    refused = []
    try:
        attention = torch.from_numpy(lens.attention(TEXT, 2).weights)
    except ObservationError as error:
        attention = str(error)
    for door in (
        lambda: lens.trace(TEXT),
        lambda: lens.run_with_cache(TEXT, [], stop_at_layer=1),
    ):
        try:
            door()
        except ObservationError as error:
            refused.append(str(error))
    return {
        "cache": dict(cache),
        "plain": logits,
        "attention": attention,
        **{name: lens.run_with_hooks(TEXT, hooks) for name, hooks in CHANGES.items()},
        "refused": refused,
    }


def main():
    folder, out, *layouts = sys.argv[1:]
    for layout in layouts:
        tp, ep, pp = map(int, layout.split(","))
        seen = observe(rl.load(folder, tp_size=tp, ep_size=ep, pp_size=pp))
        torch.save(seen, Path(out) / f"{layout}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
