"""Run under torchrun: load a Ring in several parallel layouts, save what each rank saw of it.

torchrun … parallel_worker.py FOLDER OUT LAYOUT…      with LAYOUT as tp,ep,pp[,quantization]
"""

import sys
import time
from pathlib import Path

import parallel_ring
import torch
import torch.distributed as dist

from ringlens.model.parallel import control_group


def control(told):
    """What a control group brings across, and what a rank sees that waits for one that is late.

    Rank 1 is late until rank 0 has given up and says so by a file.
    """
    words = [None] * dist.get_world_size()
    dist.all_gather_object(words, f"rank {dist.get_rank()}", group=control_group(300))
    late = control_group(1)
    if dist.get_rank() == 1:
        while not told.exists():
            time.sleep(0.05)
        return words, None
    start = time.monotonic()
    try:
        dist.barrier(group=late)
    except RuntimeError as error:
        return words, (str(error), time.monotonic() - start)
    finally:
        told.touch()
    return words, None


def main():
    folder, out, *layouts = sys.argv[1:]
    for layout in layouts:
        tp, ep, pp, *method = layout.split(",")
        options = {"quantization": method[0]} if method else {}
        options |= {"tp_size": int(tp), "ep_size": int(ep), "pp_size": int(pp)}
        seen = parallel_ring.observe(folder, **options)
        torch.save(seen, Path(out) / f"{layout}-{dist.get_rank()}.pt")
    if dist.get_world_size() == 2:
        torch.save(control(Path(out) / "given-up"), Path(out) / f"control-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
