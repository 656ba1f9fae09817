"""The pruning curve of ring-nano for all criteria, as a table.

python benchmarks/pruning_curve.py --out runs/curve
python benchmarks/pruning_curve.py --out runs/curve --rank 4 --problems 2 --new 40    # to try it

Writes OUT/curve.csv; `python docs/draw_pruning.py` draws the picture of docs/acting.md from a copy
in docs/images/acting. `recovery.py` measures what distilling brings back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

import ringlens as rl
from ringlens.lens import Lens
from ringlens.problem import Problem
from ringlens.prune import cliffs, pruning_curve
from ringlens.prune.criteria import CRITERIA

KEEP = (0.75, 0.5, 0.25)


def thoughts(lens: Lens, problems: list[Problem], out: Path, new: int) -> rl.Store:
    """What ranks the experts."""
    folder = out / "thoughts"
    if folder.exists():
        return rl.Store(folder)
    record = ("routing", "expert_outputs")
    return rl.capture(lens, problems, folder, max_new_tokens=new, record=record)


def curve(
    lens: Lens, store: rl.Store, fresh: list[Problem], options: argparse.Namespace
) -> pd.DataFrame:
    """Every criterion but measured ablation, over shares of experts that stay."""
    criteria = [name for name in CRITERIA if name != "ablation"]
    return pruning_curve(
        lens, store, fresh, criteria=criteria, keep=KEEP, max_new_tokens=options.new,
        batch_size=24, on_plan=lambda done, of: print(f"curve {done} of {of}", flush=True),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=24, help="problems that rank the experts")
    parser.add_argument("--problems", type=int, default=24, help="problems to try them on")
    parser.add_argument("--new", type=int, default=200, help="most tokens of an answer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    lens = rl.load("ring-nano", device="cpu")
    problems = rl.problems("countdown", n=options.rank + options.problems)
    ranked, fresh = problems[: options.rank], problems[options.rank :]
    store = thoughts(lens, ranked, options.out, options.new)
    found = curve(lens, store, fresh, options)
    found.to_csv(options.out / "curve.csv", index=False)
    print(found.to_string(float_format="{:.3f}".format))
    print(cliffs(found).to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
