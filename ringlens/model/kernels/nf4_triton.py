"""Triton kernels: experts in 4 bits for a few tokens, their bytes read where they lie.

Each expert's matrices are allocations of their own, which a table of addresses names, so that one
launch reads them all. A word of 32 bits holds eight neighbours of a row, and a block of numbers
shares a scale (NF4, arXiv:2305.14314, as bitsandbytes lays it out). A program multiplies some rows
of one matrix by the input of one choice: with a half byte to look up for each number, tensor cores
would wait. Numbers are code · scale in float32, which bitsandbytes rounds.

Shape letters: N tokens, k experts a token, S = N·k choices, E experts, D hidden size, d = D/8, F
width of an expert, f = F/8, A addresses of a matrix; of a program G blocks, H words of one, O rows.
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
        dtype: What the results are rounded to.
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
        blocks: Blocks of 64 numbers of each that it multiplies at a time.
        warps: Its warps.
    """

    rows: int = 8
    blocks: int = 8
    warps: int = 1


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
    # Columns apart that are apart in a word.
    hidden_N8d = hidden_ND.reshape(N, D // 8, 8).transpose(1, 2).float().contiguous()
    inner_S8f = hidden_N8d.new_empty(S, 8, F // 8)
    scale_code = packed.code if packed.scale_code is None else packed.scale_code
    divided = {
        "D": D, "F": F, "NESTED": packed.scale_code is not None, "WORDS": packed.block // 8,
        "GROUPS": max(1, tile.blocks * 64 // packed.block), "ROWS": tile.rows,
        "num_warps": tile.warps,
    }  # fmt: skip
    given = (ids_Nk.contiguous(), packed.addresses_E3A, packed.code, scale_code)
    with torch.cuda.device_of(hidden_ND):
        _up[(triton.cdiv(F, tile.rows), S)](
            hidden_N8d, *given, inner_S8f, output_SD, S // N, **divided
        )
        _down[(triton.cdiv(D, tile.rows), S)](inner_S8f, *given, output_SD, **divided)
    return output_SD


@triton.jit(do_not_specialize=["K"])
def _up(
    hidden_N8d,
    ids_Nk,
    addresses_E3A,
    code,
    scale_code,
    inner_S8f,
    rounded_like,
    K,
    D: tl.constexpr,
    F: tl.constexpr,
    NESTED: tl.constexpr,
    WORDS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    s = tl.program_id(1).to(tl.int64)
    x_8d = hidden_N8d + s // K * D
    gate_A = addresses_E3A + tl.load(ids_Nk + s) * 3 * ADDRESSES
    f = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    gate = _product(x_8d, gate_A, code, scale_code, f, D, F, NESTED, WORDS, GROUPS, ROWS)
    up_A = gate_A + ADDRESSES
    up = _product(x_8d, up_A, code, scale_code, f, D, F, NESTED, WORDS, GROUPS, ROWS)
    # Each step rounded as a module of its own would round it.
    kind: tl.constexpr = rounded_like.dtype.element_ty
    gate = gate.to(kind).to(tl.float32)
    acted = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32)
    product = (acted * up.to(kind).to(tl.float32)).to(kind).to(tl.float32)
    tl.store(inner_S8f + s * F + f % 8 * (F // 8) + f // 8, product, mask=f < F)


@triton.jit
def _down(
    inner_S8f,
    ids_Nk,
    addresses_E3A,
    code,
    scale_code,
    output_SD,
    D: tl.constexpr,
    F: tl.constexpr,
    NESTED: tl.constexpr,
    WORDS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    s = tl.program_id(1).to(tl.int64)
    down_A = addresses_E3A + (tl.load(ids_Nk + s) * 3 + 2) * ADDRESSES
    d = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x_8f = inner_S8f + s * F
    total = _product(x_8f, down_A, code, scale_code, d, F, D, NESTED, WORDS, GROUPS, ROWS)
    tl.store(output_SD + s * D + d, total.to(output_SD.dtype.element_ty), mask=d < D)


@triton.jit
def _product(
    x_8w,
    matrix_A,
    code,
    scale_code,
    row_O,
    WIDTH: tl.constexpr,
    HEIGHT: tl.constexpr,
    NESTED: tl.constexpr,
    WORDS: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Rows of a matrix [HEIGHT, WIDTH] in 4 bits times x, [O] in float32."""
    ALL: tl.constexpr = WIDTH // 8
    words = tl.multiple_of(tl.load(matrix_A).to(tl.pointer_type(tl.int32)), 16)
    real_O = row_O < HEIGHT
    first_O = tl.where(real_O, row_O, 0) * ALL
    group_G, word_H = tl.arange(0, GROUPS), tl.arange(0, WORDS)
    total_GHO = tl.zeros([GROUPS, WORDS, ROWS], tl.float32)
    table = _table(code)
    for start in range(0, ALL, GROUPS * WORDS):
        word_GH = start + group_G[:, None] * WORDS + word_H[None, :]
        within_GH = word_GH < ALL
        at_GHO = word_GH[:, :, None] + first_O[None, None, :]
        seen_GHO = within_GH[:, :, None] & real_O[None, None, :]
        eight_GHO = tl.load(words + at_GHO, mask=seen_GHO, other=0)
        if ALL % WORDS == 0:  # then no block goes over the end of a row
            block = (start // WORDS + group_G)[:, None, None] + (first_O // WORDS)[None, None, :]
            known = (start // WORDS + group_G < ALL // WORDS)[:, None, None] & real_O[None, None, :]
        else:
            block, known = at_GHO // WORDS, seen_GHO
        part_GHO = tl.zeros([GROUPS, WORDS, ROWS], tl.float32)
        for column in tl.static_range(8):
            x_GH = tl.load(x_8w + column * ALL + word_GH, mask=within_GH, other=0.0)
            # The first of a byte's two numbers is its upper half.
            number_GHO = _looked_up(table, eight_GHO, column // 2 * 8 + (1 - column % 2) * 4)
            part_GHO += number_GHO * x_GH[:, :, None]
        total_GHO += part_GHO * _scales(matrix_A, scale_code, block, known, NESTED)
    return tl.sum(tl.sum(total_GHO, axis=0), axis=0)


@triton.jit
def _table(code):
    """In each lane of a warp one of the 16 numbers, twice over.

    A scalar, as far as Triton knows: a tensor's elements may be moved from lane to lane.
    """
    lane = tl.inline_asm_elementwise(
        "mov.u32 $0, %laneid;", "=r,r", [0], tl.int32, is_pure=True, pack=1
    )
    return tl.load(code + (lane & 15))


@triton.jit
def _looked_up(table, eight, SHIFT: tl.constexpr):
    """The number of a half byte, from the lane that holds it."""
    return tl.inline_asm_elementwise(
        "shfl.sync.idx.b32 $0, $1, $2, 31, 0xffffffff;",
        "=f,f,r",
        [table, eight >> SHIFT],
        tl.float32,
        is_pure=True,
        pack=1,
    )


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
