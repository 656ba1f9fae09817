"""What distilling brings back: ring-nano with fewer experts, before and after it learnt.

ring-nano thinks about training problems; experts are ranked by what they did there; checkpoints of
fewer experts are written, and learn from the full model over the same thoughts. All are tried on
held-out problems that neither the ranking nor the learning saw, with the most likely tokens.

python benchmarks/recovery.py [--keep 0.25] [--criteria random frequency reap] [--tokens 300000]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ringlens as rl
from ringlens.analysis.statistics.share import wilson
from ringlens.distil import Distillation, distil
from ringlens.prune import export, pruning_plan

CAPTURE = {"batch_size": 32, "max_new_tokens": 320}


def main() -> None:
    """Print accuracy of the full, the pruned and the distilled model of each criterion."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--criteria", nargs="+", default=["random", "frequency", "reap"])
    parser.add_argument("--thoughts", type=int, default=128, help="problems to learn from")
    parser.add_argument("--problems", type=int, default=96, help="held-out problems to try")
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    settings = Distillation(tokens=given.tokens, learning_rate=given.learning_rate)
    with tempfile.TemporaryDirectory() as name:
        home, lens = Path(name), rl.load("ring-nano", dtype="float32", device=given.device)
        seen = rl.problems("countdown", n=given.thoughts, split="train", seed=1)
        record = ["routing", "expert_outputs"]
        with rl.capture(lens, seen, home / "thoughts", record=record, **CAPTURE) as store:
            show("ring-nano", *accuracy(lens, given.problems, home / "full"))
            for criterion in given.criteria:
                plan = pruning_plan("ring-nano", store, criterion, keep=given.keep)
                small = export(plan, home / criterion).folder
                try_folder(f"{criterion}, keep {given.keep}", small, given, home)
                made = distil(small, store, f"{small}-learnt", settings=settings,
                              device=given.device)  # fmt: skip
                print(f"  {made!r}", flush=True)
                try_folder("  distilled", made.folder, given, home)


def try_folder(what: str, folder: Path, given: argparse.Namespace, home: Path) -> None:
    """Print the accuracy of a checkpoint."""
    lens = rl.load(folder, dtype="float32", device=given.device)
    show(what, *accuracy(lens, given.problems, home / f"{folder.name}-tried"))


def accuracy(lens: rl.Lens, n: int, store: Path) -> tuple[int, int]:
    """Problems solved, and tried."""
    with rl.capture(lens, rl.problems("countdown", n=n), store, record=(), **CAPTURE) as found:
        return found.sql("select count_if(correct)::int, count(*)::int from traces").fetchall()[0]


def show(what: str, right: int, of: int) -> None:
    """Print a share with its interval."""
    low, high = wilson(right, of)
    print(f"{what:28s} {right:4d} of {of}  {right / of:6.1%}  (95%: {low:.1%} to {high:.1%})",
          flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
