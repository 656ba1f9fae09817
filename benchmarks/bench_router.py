"""The router record by one kernel against the same in torch.

python benchmarks/bench_router.py [--tokens 64 8192] [--rounds 50]

Needs CUDA. Ring-1T's router: 256 experts in 8 groups, 4 groups stay, 8 experts a token. The records
are compared first; a wrong one ends it. "behind work" times a call whose launches the host made
while the device was busy, as in a model's forward; "alone" includes what the host takes to launch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))
from gpu_timing import device_line, device_medians

from ringlens.model.router_rule import RouterRule
from ringlens.observe.kernels.router import RouterRecord, choose, torch_record
from ringlens.observe.kernels.router_triton import record_rows

RING = RouterRule(
    256, 8, 8, 4, 2.5, score="sigmoid", bias="scores", group_score="sum_of_two", renormalised=True
)


def inputs(N: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, weights, ids and bias of a random router."""
    g = torch.Generator("cuda").manual_seed(0)
    logits = torch.randn(N, RING.experts, generator=g, device="cuda") * 2
    bias = torch.randn(RING.experts, generator=g, device="cuda") * 0.05
    ids = choose(logits.sigmoid() + bias, RING)
    return logits, logits.sigmoid().gather(1, ids), ids, bias


def check(found: RouterRecord, wanted: RouterRecord) -> None:
    """The kernel's record is torch's."""
    for name in ("affinities_Nk", "margin_N", "group_margin_N", "entropy_N"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=0, atol=4e-6)
    assert torch.equal(found.expert_ids_Nk, wanted.expert_ids_Nk)
    assert found.same_N.float().mean() > 0.999


def device_only(run: Callable[[], object], rounds: int) -> float:
    """Milliseconds a call on the device; calls queue behind a sleep, which hides the launches."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(10**8)
    begin.record()
    for _ in range(rounds):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 8192])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    print(device_line())
    for N in options.tokens:
        given = *inputs(N), RING
        check(record_rows(*given), torch_record(*given))
        variants: dict[str, Callable[[], object]] = {
            "torch": partial(torch_record, *given),
            "kernel": partial(record_rows, *given),
        }
        for name, alone in device_medians(variants, options.rounds).items():
            behind = device_only(variants[name], min(options.rounds, 10))
            print(f"{N:6} tokens  {name:6} alone {alone:7.4f} ms, behind work {behind:7.4f} ms")


if __name__ == "__main__":
    main()
