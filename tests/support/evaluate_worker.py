"""Run under torchrun, or alone: evaluates a plan and ablates, problems shared out.

torchrun … evaluate_worker.py STORE OUT

STORE is a folder of the process' own, or of all of them. The tables of each process go to
OUT-RANK.pt.
"""

import os
import sys

import torch
import torch.distributed as dist
from pruned import random_plan

import ringlens as rl
from ringlens.probes.ablated_answers import ablated_answers
from ringlens.probes.ablation import ablate, ablate_set
from ringlens.prune import evaluate

PROBLEMS = rl.problems("countdown", n=3)  # of which one process has two


def main():
    store, out = sys.argv[1:]
    lens = rl.load("ring-nano", device="cpu")
    plan = random_plan("ring-nano", 3, seed=5)
    found = {"evaluate": evaluate(lens, plan, PROBLEMS, max_new_tokens=16, batch_size=2)}
    with rl.Store(store) as opened:
        found["ablate"] = ablate(lens, opened, layers=[5], experts=[3, 7])
        found["set"] = ablate_set(lens, opened, [(5, 3), (4, 1)], random_sets=2)
        found["answers"] = ablated_answers(lens, opened, [[(5, 3)]], max_new_tokens=6)
    torch.save(found, f"{out}-{os.environ.get('RANK', '0')}.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
