"""Triton kernels: experts in 4 bits for a few tokens, their bytes read where they lie.

Each expert's matrices are allocations of their own, which a table of addresses names, so that one
launch reads them all. A byte holds two neighbours of a row, the first in its upper half, and a
block of numbers shares a scale (NF4, arXiv:2305.14314, as bitsandbytes lays it out). A program
multiplies some rows of one matrix by the input of one choice: with a half byte to look up for each
number, tensor cores would wait. Numbers are rounded as those of an expanded matrix are.

Shape letters: N tokens, k experts a token, S = N·k choices, E experts, D hidden size, F width of an
expert, A addresses of a matrix; of a program G blocks, H bytes of a block, O rows.
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

# Of a matrix: its bytes, its scales, and of scales that are bytes their scales and their mean.
ADDRESSES = tl.constexpr(4)
# Scales that share a scale of scales (bitsandbytes').
SCALES_A_SCALE = tl.constexpr(256)


@dataclass(frozen=True)
class Packed:
    """Where the experts of a layer lie, in 4 bits.

    Attributes:
        addresses_E3A: Addresses on the device, int64: of gate, up and down, as `ADDRESSES` says.
        code: The 16 numbers that a half byte stands for, float32.
        scale_code: The 256 numbers that a byte of the scales stands for; None: scales are float32.
        block: Numbers that share a scale.
        hidden: D.
        width: F.
        dtype: What numbers and results are rounded to.
    """

    addresses_E3A: Tensor
    code: Tensor
    scale_code: Tensor | None
    block: int
    hidden: int
    width: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Tile:
    """How a product is divided.

    Attributes:
        rows: Rows of a matrix that a program multiplies.
        blocks: Blocks of each that it multiplies at a time.
        warps: Its warps.
    """

    rows: int = 8
    blocks: int = 8
    warps: int = 2


def outputs_in_4_bits(
    hidden_ND: Tensor, ids_Nk: Tensor, packed: Packed, tile: Tile = Tile()
) -> Tensor:
    """What each chosen expert gives, [S, D]; gated, with SiLU, rounded as linear layers round.

    Args:
        hidden_ND: Hidden states, of the packed dtype.
        ids_Nk: Chosen experts, few enough for `ringlens.model.kernels.experts.are_few`.
        packed: The experts.
        tile: How products are divided.
    """
    N, S = len(hidden_ND), ids_Nk.numel()
    D, F = packed.hidden, packed.width
    output_SD = hidden_ND.new_empty(S, D)
    if S == 0:
        return output_SD
    inner_SF = hidden_ND.new_empty(S, F)
    scale_code = packed.code if packed.scale_code is None else packed.scale_code
    divided = {
        "D": D, "F": F, "NESTED": packed.scale_code is not None, "HALF": packed.block // 2,
        "GROUPS": tile.blocks, "ROWS": tile.rows, "num_warps": tile.warps,
    }  # fmt: skip
    given = (ids_Nk.contiguous(), packed.addresses_E3A, packed.code, scale_code)
    with torch.cuda.device_of(hidden_ND):
        _up[(triton.cdiv(F, tile.rows), S)](
            hidden_ND.contiguous(), *given, inner_SF, S // N, **divided
        )
        _down[(triton.cdiv(D, tile.rows), S)](inner_SF, *given, output_SD, **divided)
    return output_SD


@triton.jit(do_not_specialize=["K"])
def _up(
    hidden_ND,
    ids_Nk,
    addresses_E3A,
    code,
    scale_code,
    inner_SF,
    K,
    D: tl.constexpr,
    F: tl.constexpr,
    NESTED: tl.constexpr,
    HALF: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    s = tl.program_id(1).to(tl.int64)
    x_D = hidden_ND + s // K * D
    gate_A = addresses_E3A + tl.load(ids_Nk + s) * 3 * ADDRESSES
    f = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    gate = _product(x_D, gate_A, code, scale_code, f, D, F, NESTED, HALF, GROUPS, ROWS)
    up_A = gate_A + ADDRESSES
    up = _product(x_D, up_A, code, scale_code, f, D, F, NESTED, HALF, GROUPS, ROWS)
    # Each step rounded as a module of its own would round it.
    kind: tl.constexpr = inner_SF.dtype.element_ty
    gate = gate.to(kind).to(tl.float32)
    acted = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    product = (acted * up.to(kind).to(tl.float32)).to(kind)
    tl.store(inner_SF + s * F + f, product, mask=f < F)


@triton.jit
def _down(
    inner_SF,
    ids_Nk,
    addresses_E3A,
    code,
    scale_code,
    output_SD,
    D: tl.constexpr,
    F: tl.constexpr,
    NESTED: tl.constexpr,
    HALF: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    s = tl.program_id(1).to(tl.int64)
    down_A = addresses_E3A + (tl.load(ids_Nk + s) * 3 + 2) * ADDRESSES
    d = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x_F = inner_SF + s * F
    total = _product(x_F, down_A, code, scale_code, d, F, D, NESTED, HALF, GROUPS, ROWS)
    tl.store(output_SD + s * D + d, total.to(output_SD.dtype.element_ty), mask=d < D)


@triton.jit
def _product(
    x_W,
    matrix_A,
    code,
    scale_code,
    row_O,
    WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,
    NESTED: tl.constexpr,
    HALF: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Rows of a matrix [HEIGHT, WIDTH] in 4 bits times x, [O] in float32."""
    BYTES: tl.constexpr = WIDTH // 2
    kind: tl.constexpr = x_W.dtype.element_ty
    packed = tl.multiple_of(tl.load(matrix_A).to(tl.pointer_type(tl.uint8)), 16)
    real_O = row_O < HEIGHT
    first_O = tl.where(real_O, row_O, 0).to(tl.int64) * BYTES
    group_G = tl.arange(0, GROUPS)
    place_GH = group_G[:, None] * HALF + tl.arange(0, HALF)[None, :]
    total_GHO = tl.zeros([GROUPS, HALF, ROWS], tl.float32)
    for start in range(0, BYTES, GROUPS * HALF):
        byte_GH = start + place_GH
        within = (byte_GH < BYTES)[:, :, None]
        seen = within & real_O[None, None, :]
        at_GHO = first_O[None, None, :] + byte_GH[:, :, None]
        two_GHO = tl.load(packed + at_GHO, mask=seen, other=0).to(tl.int32)
        if BYTES % HALF == 0:  # then no block goes over the end of a row
            here_G = start // HALF + group_G
            block = (first_O // HALF)[None, None, :] + here_G[:, None, None]
            known = (here_G < BYTES // HALF)[:, None, None] & real_O[None, None, :]
        else:
            block, known = at_GHO // HALF, seen
        scale = _scales(matrix_A, scale_code, block, known, NESTED)
        high_GHO = (tl.load(code + (two_GHO >> 4)) * scale).to(kind)
        low_GHO = (tl.load(code + (two_GHO & 15)) * scale).to(kind)
        x_at = x_W + 2 * byte_GH[:, :, None]
        even = tl.load(x_at, mask=within, other=0.0).to(tl.float32)
        odd = tl.load(x_at + 1, mask=within, other=0.0).to(tl.float32)
        total_GHO += high_GHO.to(tl.float32) * even + low_GHO.to(tl.float32) * odd
    return tl.sum(tl.sum(total_GHO, axis=0), axis=0)


@triton.jit
def _scales(matrix_A, scale_code, block, known, NESTED: tl.constexpr):
    """Scales of blocks, float32."""
    if NESTED:
        scales = tl.load(matrix_A + 1).to(tl.pointer_type(tl.uint8))
        seconds = tl.load(matrix_A + 2).to(tl.pointer_type(tl.float32))
        mean = tl.load(tl.load(matrix_A + 3).to(tl.pointer_type(tl.float32)))
        byte = tl.load(scales + block, mask=known, other=0).to(tl.int32)
        second = tl.load(seconds + block // SCALES_A_SCALE, mask=known, other=0.0)
        scale = tl.load(scale_code + byte) * second + mean
    else:
        scales = tl.load(matrix_A + 1).to(tl.pointer_type(tl.float32))
        scale = tl.load(scales + block, mask=known, other=0.0)
    return scale
