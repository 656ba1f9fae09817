"""Routers of layers that several processes hold: each routes a part of the tokens for all.

transformers lets every process route all tokens, which does not shrink with their number. A router
in float32 is some 5% of the products of a sparse layer, and many small kernels.

Shape letters: N tokens, D hidden size, R tokens that a process routes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST = 256
"""Tokens of a process below which every process routes all: telling the others takes longer."""

Route = Callable[[Tensor], tuple[Tensor, ...]]
"""Routes hidden states [..., D] to what a router returns, a row for each token."""


def route_own_rows(router: nn.Module) -> None:
    """Let each process route its part of the tokens; all get what is returned for all of them.

    Args:
        router: The same in all processes of the job, which call it with the same tokens.
    """
    whole: Route = router.forward

    def forward(hidden_states: Tensor) -> tuple[Tensor, ...]:
        hidden_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
        N, processes = len(hidden_ND), dist.get_world_size()
        R = -(-N // processes)
        learns = torch.is_grad_enabled() and hidden_ND.requires_grad
        if R < FEWEST or learns:  # what others send has no gradient
            return whole(hidden_states)
        mine_RD = hidden_ND[dist.get_rank() * R :][:R]
        routed = whole(F.pad(mine_RD, (0, 0, 0, R - len(mine_RD))))
        return tuple(each[:N] for each in _gathered(routed, processes))

    router.forward = forward


def _gathered(parts: tuple[Tensor, ...], processes: int) -> list[Tensor]:
    """Rows [R, …] of all processes, one below the other; of all dtypes in one message."""
    as_bytes = [part.contiguous().view(torch.uint8) for part in parts]
    sent = torch.cat(as_bytes, dim=1)
    got = sent.new_empty(processes * len(sent), sent.shape[1])
    dist.all_gather([*got.chunk(processes)], sent)
    columns = got.split([part.shape[1] for part in as_bytes], dim=1)
    return [c.contiguous().view(p.dtype) for c, p in zip(columns, parts, strict=True)]
