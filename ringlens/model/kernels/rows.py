"""What is recorded of rows of numbers: in torch, and where Triton is from one reading of them.

Shape letters: S rows, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ringlens.model.kernels.triton_available import triton_installed


def norms_and_peaks(rows_SD: Tensor) -> Tensor:
    """L2 norms and largest magnitudes, float32 [2, S]."""
    if rows_SD.is_cuda and triton_installed():
        from ringlens.model.kernels import rows_triton

        return rows_triton.norms_and_peaks(rows_SD)
    norm_S = torch.linalg.vector_norm(rows_SD, dim=-1, dtype=torch.float32)
    peak_S = torch.linalg.vector_norm(rows_SD, ord=torch.inf, dim=-1, dtype=torch.float32)
    return torch.stack((norm_S, peak_S))


def products(before: Tensor, added: Tensor, other: Tensor) -> Tensor:
    """h·h, h·r and r·r of h = before + added, rounded to their dtype, and the other r.

    Args:
        before: Rows [..., D].
        added: What is added to them, of the same shape and dtype.
        other: r, of the same shape.

    Returns:
        Float32 [3, ...].
    """
    if before.is_cuda and triton_installed():
        from ringlens.model.kernels import rows_triton

        rows = (x.flatten(0, -2) for x in (before, added, other))
        return rows_triton.products(*rows).unflatten(1, before.shape[:-1])
    h, r = (before + added).float(), other.float()
    return torch.stack([(a * b).sum(dim=-1) for a, b in ((h, h), (h, r), (r, r))])
