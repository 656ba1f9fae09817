"""What one rank does of a forward, by module and operation, against one process.

python benchmarks/sharded_work.py [--ranks 2] [--tokens 512] [--layouts tp ep tp+ep]

Nothing is timed: numbers that operations write, and floating-point operations of products, are
counted on the CPU, in processes joined by gloo, so the table is the same on every machine. A share
of 1/ranks is ideal; one near 1 is work that every rank does in full.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parent))
from ring_sizes import random_lens

LAYOUTS = {"tp": (1, 0), "ep": (0, 1), "tp+ep": (1, 1)}
# Views and what only allocates.
FREE = (
    "view",
    "empty",
    "detach",
    "split",
    "transpose",
    "expand",
    "slice",
    "select",
    "alias",
    "_to_",
)
Key = tuple[str, str]


def _grouped(x: Tensor, weight: Tensor, offs: Tensor, *_: Any, **__: Any) -> int:
    return 2 * int(offs[-1]) * weight.shape[1] * weight.shape[2]


# Operations of the products on the CPU, of their arguments; rows that no expert has are skipped.
OPERATIONS: dict[str, Callable[..., int]] = {
    "mm": lambda a, b, **_: 2 * a.numel() * b.shape[1],
    "addmm": lambda _, a, b, **__: 2 * a.numel() * b.shape[1],
    "bmm": lambda a, b, **_: 2 * a.numel() * b.shape[2],
    "_grouped_mm": _grouped,
    "_scaled_dot_product_flash_attention_for_cpu": lambda q, k, *_, **__: (
        4 * q.numel() * k.shape[2]
    ),
}


class Work(TorchDispatchMode):
    """Counts by module and operation: numbers written, and operations of products."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.written: Counter[Key] = Counter()
        self.products: Counter[Key] = Counter()
        self._inside = ["model"]
        for name, module in model.named_modules():
            kind = ".".join("*" if part.isdigit() else part for part in name.split("."))
            module.register_forward_pre_hook(lambda *_, kind=kind: self._inside.append(kind))
            module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self._inside.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it; of a sharded tensor only what it makes of its own part."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        key = self._inside[-1], func.overloadpacket.__name__
        if not key[1].startswith(FREE):
            outs = out if isinstance(out, tuple | list) else [out]
            self.written[key] += sum(o.numel() for o in outs if isinstance(o, Tensor))
        if count := OPERATIONS.get(key[1]):
            self.products[key] += count(*args, **(kwargs or {}))
        return out


def counted(model: torch.nn.Module, tokens: int) -> tuple[Counter[Key], Counter[Key]]:
    """What a forward over some tokens does in this process."""
    ids = torch.randint(4, 4000, (1, tokens), generator=torch.Generator().manual_seed(0))
    work = Work(model)
    with torch.no_grad(), work:
        model(ids, logits_to_keep=1)
    return work.written, work.products


def rank(folder: str, out: str, tokens: int, tp: int, ep: int) -> None:
    """One process of a layout."""
    from ringlens.model.loading import load_model

    torch.set_num_threads(1)
    model, _ = load_model(folder, tp_size=tp, ep_size=ep)
    torch.save(counted(model, tokens), f"{out}-{os.environ['RANK']}")
    torch.distributed.destroy_process_group()


def launch(size: int, arguments: list[str]) -> None:
    """Run this script in several processes."""
    import subprocess

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    started = []
    for r in range(size):
        mine = job | {"MASTER_PORT": port, "RANK": r, "LOCAL_RANK": r, "OMP_NUM_THREADS": 1}
        env = os.environ | {name: str(value) for name, value in mine.items()}
        started.append(subprocess.Popen([sys.executable, __file__, *arguments], env=env))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a rank failed")


def show(title: str, alone: Counter[Key], ranks: list[Counter[Key]]) -> None:
    """Print the operations that write or compute most, and the share of the busiest rank."""
    total = sum(alone.values())
    busiest = max(sum(each.values()) for each in ranks)
    print(f"\n{title}: {total:.3g} in one process; the busiest rank {busiest / total:.2f} of it")
    for key in sorted({*alone, *ranks[0]}, key=lambda key: -max(each[key] for each in ranks))[:24]:
        most = max(each[key] for each in ranks)
        if most > 0.01 * busiest:
            share = f"{most / alone[key]:.2f}" if alone[key] else "new"
            print(f"  {key[0]:46} {key[1]:28} {most / total:6.1%} of all   share {share}")


def main() -> None:
    """Compare the layouts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--of", nargs=4, help="(for the script itself: one process of a layout)")
    given = parser.parse_args()
    if given.of:
        folder, out, *sizes = given.of
        rank(folder, out, given.tokens, *map(int, sizes))
        return
    with tempfile.TemporaryDirectory() as folder:
        lens = random_lens("tiny", "cpu", torch.float32)
        lens.model.save_pretrained(folder)
        lens.tokenizer.save_pretrained(folder)
        alone = counted(lens.model, given.tokens)
        for name in given.layouts:
            tp, ep = (given.ranks if used else 1 for used in LAYOUTS[name])
            of = ["--of", folder, f"{folder}/{name}", str(tp), str(ep)]
            launch(given.ranks, [*of, "--tokens", str(given.tokens)])
            seen = [
                torch.load(f"{folder}/{name}-{r}", weights_only=False) for r in range(given.ranks)
            ]
            show(f"{name} {given.ranks}, numbers written", alone[0], [each[0] for each in seen])
            show(
                f"{name} {given.ranks}, operations of products",
                alone[1],
                [each[1] for each in seen],
            )


if __name__ == "__main__":
    main()
