# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The certified filter's kernel: sums of absolute differences of 8-bit codes, four dimensions an instruction.

Every thread sums an 8 x 8 tile of pairs in registers; four warps make a tile of 64 x 128 pairs. Codes are
stored word-major, four dimensions of a row to a 32-bit word and the same word of all rows side by side, so
a thread's rows of a word are two 16-byte loads and a warp's columns one 128-byte line. A word then costs a
thread 4 loads for 64 VABSDIFF4, which is what bounds the kernel (issued at half rate on Hopper).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.lang import gl, gluon_jit, jit, tl
from dm2at_ray.neighbors.gpu.survivors import Survivors, append, open_tile
from dm2at_ray.neighbors.gpu.tiles import FIELDS

ROWS_COPIED = 1 << 16
"""Rows turned into words at once: 32 MiB of codes for 512 dimensions."""


@dataclass(frozen=True)
class SadShape:
    """How the kernel is cut for a device; `gpu.check` times others than the default.

    Attributes:
        rows: rows of x of a tile.
        columns: rows of y of a tile.
        unroll: words added in one turn of the loop.
        run: rows next to each other that a thread holds; 4 spreads its 8 rows so that a warp's loads fill
            whole cache lines, 8 keeps them together.
        registers: at most so many a thread; 128 lets four blocks share a multiprocessor.
    """

    rows: int = 64
    columns: int = 128
    unroll: int = 2
    run: int = 4
    registers: int = 128


@jit
def add_sad(a, b, total, layout: tl.constexpr):
    """Return total + sum over the four bytes of |a - b|; a (A, 1), b (1, B) and total (A, B) int32.

    PTX in Gluon; what any backend understands where there is no layout.
    """
    if layout is not None:
        # Intrinsics compile to one more addition a word.
        total = tl.inline_asm_elementwise(
            "vabsdiff4.u32.u32.u32.add $0, $1, $2, $3;",
            "=r,r,r,r",
            [a, b, total],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        for byte in tl.static_range(4):
            total += tl.abs(((a >> (8 * byte)) & 255) - ((b >> (8 * byte)) & 255))
    return total


@jit
def sad_tile(
    tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
    words, r, c, total, rows: tl.constexpr, columns: tl.constexpr, unroll: tl.constexpr,
    same: tl.constexpr, layout: tl.constexpr,
):  # fmt: skip
    """Append the pairs of one tile with SAD <= max(x_reach, y_reach) + x_slack + y_slack, all int32.

    r (A,) and c (B,) count a tile's rows of x and y, total (A, B) is zero: the caller chose their layouts.
    """
    x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, idle = open_tile(
        tiles, counter, capacity, columns, same
    )
    if idle:
        return
    x_words = x + x_start
    y_words = y + y_start
    for _ in range(0, words, unroll):
        for _ in tl.static_range(unroll):
            a = tl.load(x_words + r)
            b = tl.load(y_words + c)
            total = add_sad(a[:, None], b[None, :], total, layout)
            x_words += x_stride
            y_words += y_stride
    i = x_start + r
    j = y_start + c
    inside_x = (i >= x_begin) & (i < x_end)
    inside_y = (j >= y_begin) & (j < y_end)
    # Rows outside their range reach nothing, so that they do not hold up the tile.
    reach_i = tl.load(x_reach + i, mask=inside_x, other=0)
    slack_i = tl.load(x_slack + i, mask=inside_x, other=-(1 << 29))
    reach_j = tl.load(y_reach + j, mask=inside_y, other=0)
    slack_j = tl.load(y_slack + j, mask=inside_y, other=-(1 << 29))
    reach = tl.maximum(reach_i[:, None], reach_j[None, :]) + (slack_i[:, None] + slack_j[None, :]) - total
    append(
        reach, c, x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, out_i, out_j, counter, capacity,
        rows, columns, layout,
    )  # fmt: skip


@gluon_jit
def sad_kernel(
    tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
    words, rows: gl.constexpr, columns: gl.constexpr, unroll: gl.constexpr, run: gl.constexpr,
    same: gl.constexpr,
):  # fmt: skip
    """`sad_tile` with a layout of its own: Triton's would give every thread one row and 65 loads a word."""
    layout: gl.constexpr = gl.BlockedLayout([run, run], [4, 8], [2, 2], [1, 0])
    words_layout: gl.constexpr = gl.BlockedLayout([1, 1], [8, 4], [4, 1], [1, 0])
    r = gl.arange(0, rows, layout=gl.SliceLayout(1, layout))
    c = gl.arange(0, columns, layout=gl.SliceLayout(0, layout))
    total = gl.zeros([rows, columns], gl.int32, layout=layout)
    sad_tile(
        tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
        words, r, c, total, rows, columns, unroll, same, words_layout,
    )  # fmt: skip


@jit
def sad_kernel_plain(
    tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
    words, rows: tl.constexpr, columns: tl.constexpr, unroll: tl.constexpr, run: tl.constexpr,
    same: tl.constexpr,
):  # fmt: skip
    """`sad_tile` as Triton's interpreter can run it on a CPU, with neither layouts nor PTX."""
    r = tl.arange(0, rows)
    c = tl.arange(0, columns)
    total = tl.zeros([rows, columns], tl.int32)
    sad_tile(
        tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
        words, r, c, total, rows, columns, unroll, same, None,
    )  # fmt: skip


def to_words(codes: Tensor, shape: SadShape) -> Tensor:
    """Return codes (N, D) uint8 word-major: (W, at least N + a tile) int32, zero where there is no code.

    W is D / 4 rounded up to whole turns of the loop; equal zeros on both sides add nothing to a difference.
    """
    n, d = codes.shape
    dimensions = 4 * shape.unroll
    words = -(-d // dimensions) * shape.unroll
    # A stride of 16 words lets the compiler see that every row of words is aligned.
    width = -(-(n + max(shape.rows, shape.columns)) // 16) * 16
    out = torch.zeros(words, width, dtype=torch.int32, device=codes.device)
    for start in range(0, n, ROWS_COPIED):
        part = torch.nn.functional.pad(codes[start : start + ROWS_COPIED], (0, 4 * words - d))
        out[:, start : start + part.shape[0]] = part.contiguous().view(torch.int32).T
    return out


@dataclass(frozen=True, eq=False)
class SadRows:
    """N rows as the kernel reads them.

    Attributes:
        words: (W, at least N + a tile) int32, `to_words`.
        reach: (N,) int32, 0 .. 2^28: how far a row looks, in code units.
        slack: (N,) int32, 0 .. 2^28: by how much its codes may overstate a distance, in code units.
    """

    words: Tensor
    reach: Tensor
    slack: Tensor


def launch_sad(tiles: Tensor, survivors: Survivors, *, x: SadRows, y: SadRows, shape: SadShape) -> None:
    """Append every pair (i, j) of the tiles with SAD(i, j) <= max(reach_i, reach_j) + slack_i + slack_j.

    Args:
        tiles: (T, FIELDS) int32, `TileList.rows`.
        survivors: where the pairs go.
        x: rows i.
        y: rows j. Where it is x itself, of a pair of equal ranges only what is above the diagonal counts.
        shape: the one that the words were made with.
    """
    assert tiles.shape[1] == FIELDS
    kernel = sad_kernel if tiles.is_cuda else sad_kernel_plain
    kernel[(tiles.shape[0],)](
        tiles, x.words, x.words.stride(0), y.words, y.words.stride(0), x.reach, x.slack, y.reach, y.slack,
        survivors.i, survivors.j, survivors.counter, survivors.capacity, x.words.shape[0],
        rows=shape.rows, columns=shape.columns, unroll=shape.unroll, run=shape.run, same=x is y,
        num_warps=4, maxnreg=shape.registers,
    )  # fmt: skip
