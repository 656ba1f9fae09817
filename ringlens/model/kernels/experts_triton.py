"""Triton kernels: the experts of a few tokens, their weights read where they lie.

Choices of one expert are laid out in blocks of ROWS rows, and each block's products read that
expert's weights once. What is chosen stays on the device, so that a CUDA graph can hold it all.

Shape letters: N tokens, k experts a token, S = N·k choices, E experts, D hidden size, F width of an
expert, M blocks, R = ROWS rows of a block.
"""

# Kernels carry no annotations but constexpr.
# ruff: noqa: ANN001, ANN202
# mypy: disallow-untyped-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of the smallest product that tensor cores compute.
ROWS = 16
# Choices that the program which lays them out compares with all others at a time.
COMPARED = 16


@dataclass(frozen=True)
class Tile:
    """How a product is divided.

    Attributes:
        out: Columns of the output that a program computes.
        over: Numbers that it multiplies at a time.
        warps: Its warps.
        stages: Loads that are under way.
    """

    out: int
    over: int
    warps: int = 4
    stages: int = 4


UP, DOWN = Tile(32, 128), Tile(32, 128)


@dataclass(frozen=True)
class Blocks:
    """Choices by expert.

    Attributes:
        expert_M: The expert of each block, int32; −1 where there is none.
        choice_MR: Its choices, int32; −1 where there is none.
    """

    expert_M: Tensor
    choice_MR: Tensor


def lay_out(ids_Nk: Tensor, experts: int) -> Blocks:
    """Put the choices of each expert into blocks of their own.

    Args:
        ids_Nk: Chosen experts, few enough for `ringlens.model.kernels.experts.are_few`.
        experts: Experts of the layer.
    """
    S = ids_Nk.numel()
    M = min(S, experts + S // ROWS)
    expert_M = ids_Nk.new_empty(M, dtype=torch.int32)
    choice_MR = ids_Nk.new_empty(M, ROWS, dtype=torch.int32)
    begins_S = ids_Nk.new_empty(S, dtype=torch.int32)
    _lay_out[(1,)](
        ids_Nk.contiguous(),
        begins_S,
        expert_M,
        choice_MR,
        S,
        M,
        BLOCK=max(triton.next_power_of_2(S), ROWS),
        COMPARED=COMPARED,
        ROWS=ROWS,
        num_warps=8,
    )
    return Blocks(expert_M, choice_MR)


def expert_outputs(
    hidden_ND: Tensor,
    ids_Nk: Tensor,
    gate_up_E2FD: Tensor,
    down_EDF: Tensor,
    up: Tile = UP,
    down: Tile = DOWN,
) -> Tensor:
    """What each chosen expert gives, [S, D]; gated, with SiLU, rounded as linear layers round.

    Args:
        hidden_ND: Hidden states, of the weights' dtype.
        ids_Nk: Chosen experts, few enough for `ringlens.model.kernels.experts.are_few`.
        gate_up_E2FD: Gate and up projections of each, one above the other.
        down_EDF: Down projections.
        up: How the first product is divided.
        down: How the second is.
    """
    (N, D), S = hidden_ND.shape, ids_Nk.numel()
    E, F = gate_up_E2FD.shape[0], gate_up_E2FD.shape[1] // 2
    inner_SF, output_SD = hidden_ND.new_empty(S, F), hidden_ND.new_empty(S, D)
    if S == 0:
        return output_SD
    with torch.cuda.device_of(hidden_ND):
        blocks = lay_out(ids_Nk, E)
        M = len(blocks.expert_M)
        _up[(triton.cdiv(F, up.out), M)](
            hidden_ND.contiguous(), gate_up_E2FD, inner_SF, blocks.expert_M, blocks.choice_MR,
            S // N, D=D, F=F, ROWS=ROWS, OUT=up.out, OVER=up.over,
            num_warps=up.warps, num_stages=up.stages,
        )  # fmt: skip
        _down[(triton.cdiv(D, down.out), M)](
            inner_SF, down_EDF, output_SD, blocks.expert_M, blocks.choice_MR,
            D=D, F=F, ROWS=ROWS, OUT=down.out, OVER=down.over,
            num_warps=down.warps, num_stages=down.stages,
        )  # fmt: skip
    return output_SD


def mixed(output_SD: Tensor, weights_Nk: Tensor) -> Tensor:
    """Sum of w·output over the choices of each token, [N, D], added in float32."""
    (N, k), D = weights_Nk.shape, output_SD.shape[1]
    mixed_ND = output_SD.new_empty(N, D)
    if N:
        with torch.cuda.device_of(output_SD):
            _mix[(N, triton.cdiv(D, 1024))](
                output_SD, weights_Nk.contiguous(), mixed_ND, k, D, OUT=1024
            )
    return mixed_ND


@triton.jit(do_not_specialize=["S", "M"])  # or numbers of tokens would compile kernels anew
def _lay_out(
    ids,
    begins_S,
    expert_M,
    choice_MR,
    S,
    M,
    BLOCK: tl.constexpr,
    COMPARED: tl.constexpr,
    ROWS: tl.constexpr,
):
    s = tl.arange(0, BLOCK)
    for start in range(0, M, BLOCK):
        tl.store(expert_M + start + s, -1, mask=start + s < M)
    for start in range(0, M * ROWS, BLOCK):
        tl.store(choice_MR + start + s, -1, mask=start + s < M * ROWS)
    real = s < S
    expert = tl.load(ids + s, mask=real, other=-1).to(tl.int32)
    place = tl.zeros([BLOCK], tl.int32)  # among the choices of the same expert
    for start in range(0, S, COMPARED):
        u = start + tl.arange(0, COMPARED)
        other = tl.load(ids + u, mask=u < S, other=-2).to(tl.int32)
        earlier = (other[None, :] == expert[:, None]) & (u[None, :] < s[:, None])
        place += tl.sum(earlier.to(tl.int32), axis=1)
    begins = real & (place % ROWS == 0)
    tl.store(begins_S + s, begins.to(tl.int32), mask=real)
    tl.debug_barrier()  # what was stored is there for all threads
    block = place // ROWS
    for start in range(0, S, COMPARED):
        u = start + tl.arange(0, COMPARED)
        other = tl.load(ids + u, mask=u < S, other=0).to(tl.int32)
        begun = tl.load(begins_S + u, mask=u < S, other=0)
        block += tl.sum(tl.where(other[None, :] < expert[:, None], begun[None, :], 0), axis=1)
    tl.store(choice_MR + block * ROWS + place % ROWS, s, mask=real)
    tl.store(expert_M + block, expert, mask=begins)


@triton.jit(do_not_specialize=["K"])
def _up(
    hidden,
    weight,
    inner,
    expert_M,
    choice_MR,
    K,
    D: tl.constexpr,
    F: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    OVER: tl.constexpr,
):
    m = tl.program_id(1)
    expert = tl.load(expert_M + m).to(tl.int64)
    if expert < 0:
        return
    choice = tl.load(choice_MR + m * ROWS + tl.arange(0, ROWS))
    real = choice >= 0
    choice = tl.where(real, choice, 0).to(tl.int64)
    f = tl.program_id(0) * OUT + tl.arange(0, OUT)
    d = tl.arange(0, OVER)
    x = hidden + (choice // K)[:, None] * D + d[None, :]
    g = weight + expert * (2 * F * D) + f[None, :].to(tl.int64) * D + d[:, None]
    gate = tl.zeros([ROWS, OUT], tl.float32)
    up = tl.zeros([ROWS, OUT], tl.float32)
    for start in range(0, D, OVER):
        inside = d < D - start
        x_here = tl.load(x + start, mask=real[:, None] & inside[None, :], other=0.0)
        seen = (f < F)[None, :] & inside[:, None]
        gate = tl.dot(
            x_here, tl.load(g + start, mask=seen, other=0.0), gate, input_precision="ieee"
        )
        u_here = tl.load(g + F * D + start, mask=seen, other=0.0)
        up = tl.dot(x_here, u_here, up, input_precision="ieee")
    # Each step rounded as a module of its own would round it.
    kind: tl.constexpr = inner.dtype.element_ty
    gate = gate.to(kind).to(tl.float32)
    acted = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    product = (acted * up.to(kind).to(tl.float32)).to(kind)
    place = choice[:, None] * F + f[None, :]
    tl.store(inner + place, product, mask=real[:, None] & (f < F)[None, :])


@triton.jit
def _down(
    inner,
    weight,
    output,
    expert_M,
    choice_MR,
    D: tl.constexpr,
    F: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    OVER: tl.constexpr,
):
    m = tl.program_id(1)
    expert = tl.load(expert_M + m).to(tl.int64)
    if expert < 0:
        return
    choice = tl.load(choice_MR + m * ROWS + tl.arange(0, ROWS))
    real = choice >= 0
    choice = tl.where(real, choice, 0).to(tl.int64)
    d = tl.program_id(0) * OUT + tl.arange(0, OUT)
    f = tl.arange(0, OVER)
    x = inner + choice[:, None] * F + f[None, :]
    w = weight + expert * (D * F) + d[None, :].to(tl.int64) * F + f[:, None]
    total = tl.zeros([ROWS, OUT], tl.float32)
    for start in range(0, F, OVER):
        inside = f < F - start
        x_here = tl.load(x + start, mask=real[:, None] & inside[None, :], other=0.0)
        w_here = tl.load(w + start, mask=(d < D)[None, :] & inside[:, None], other=0.0)
        total = tl.dot(x_here, w_here, total, input_precision="ieee")
    place = choice[:, None] * D + d[None, :]
    kind: tl.constexpr = output.dtype.element_ty
    tl.store(output + place, total.to(kind), mask=real[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["K", "D"])
def _mix(output, weights, mixed_ND, K, D, OUT: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * OUT + tl.arange(0, OUT)
    total = tl.zeros([OUT], tl.float32)
    for i in range(0, K):
        w = tl.load(weights + n * K + i).to(tl.float32)
        total += w * tl.load(output + (n * K + i) * D + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(mixed_ND + n * D + d, total.to(mixed_ND.dtype.element_ty), mask=d < D)
