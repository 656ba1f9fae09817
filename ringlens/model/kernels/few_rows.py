"""What decoding does to few rows, each in one launch: norms, rotations, choices of routers.

A decoding step at a small batch is bound by its number of kernels. Where rows are many torch's own
are as good, and where gradients flow they are needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ringlens.model.kernels.triton_available import triton_installed

MOST_ROWS = 256
"""Tokens of a batch up to which a step takes these kernels."""

MOST_READ_AGAIN = 16
"""Tokens up to which weights may be read again for each: of more, torch's products take less."""

WIDEST = 16_384
"""Widest row that a program holds."""


def in_one_launch(rows: int, *tensors: Tensor) -> bool:
    """Whether plain tensors of few rows lie on one GPU, and no gradient is asked for.

    Args:
        rows: Tokens.
        *tensors: What is computed with: all of one dtype, each without gaps in its last dimension.
    """
    first = tensors[0]
    return (
        first.is_cuda
        and 0 < rows <= MOST_ROWS
        and torch.version.hip is None
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and all(
            type(x) in (Tensor, nn.Parameter)
            and (x.device, x.dtype, x.stride(-1)) == (first.device, first.dtype, 1)
            for x in tensors
        )
        and first.shape[-1] <= WIDEST
        and triton_installed()
    )
