# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The shortlist filter's kernel: squared L2 of 8-bit codes by int8 tensor cores, exact in integers.

|u_i - u_j|^2 = n_i + n_j - 2 u_i . u_j, with codes less 128 so that they are int8: the distance stays the
same. As all of it is integers, a pair is a candidate or not however the pool was cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.lang import jit, tl
from dm2at_ray.neighbors.gpu.survivors import Survivors, append, open_tile
from dm2at_ray.neighbors.gpu.tiles import FIELDS

ROWS_COPIED = 1 << 16
"""Rows centred at once: for 512 dimensions 128 MiB as int32, for their norms."""

MAX_CODE = 255

MAX_DIMENSIONS = 32768
"""More could overflow int32: 255^2 a dimension."""


@dataclass(frozen=True)
class GemmShape:
    """How the kernel is cut for a device; `gpu.check` times others than the default.

    Attributes:
        rows: rows of x of a tile.
        columns: rows of y of a tile.
        depth: dimensions multiplied in one turn of the loop.
        warps: warps of a tile.
        stages: turns of the loop whose operands are in shared memory at once.
        registers: at most so many a thread; 128 with 8 warps lets two tiles share a multiprocessor.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 128
    warps: int = 8
    stages: int = 3
    registers: int = 128


@jit
def multiply(x_codes, y_codes, width, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr):
    """Return the products (rows, columns) int32 of a tile's rows of int8 codes, each of `width`."""
    r = tl.arange(0, rows)
    c = tl.arange(0, columns)
    inner = tl.arange(0, depth)
    # Offsets within a tile fit int32 and stay as they are: half the registers of moving pointers.
    x_offsets = r[:, None] * width + inner[None, :]
    y_offsets = c[:, None] * width + inner[None, :]
    product = tl.zeros([rows, columns], tl.int32)
    for _ in range(0, width, depth):
        a = tl.load(x_codes + x_offsets)
        b = tl.load(y_codes + y_offsets)
        product = tl.dot(a, tl.trans(b), product, out_dtype=tl.int32)
        x_codes += depth
        y_codes += depth
    return product


@jit
def gemm_kernel(
    tiles, x, x_norms, x_radius, y, y_norms, y_radius, out_i, out_j, counter, capacity, width,
    rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr, same: tl.constexpr,
):  # fmt: skip
    """Append the pairs of one tile with x_norms + y_norms - 2 x . y <= max(x_radius, y_radius), all int32."""
    x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, idle = open_tile(
        tiles, counter, capacity, columns, same
    )
    if idle:
        return
    r = tl.arange(0, rows)
    c = tl.arange(0, columns)
    x_codes = x + x_start.to(tl.int64) * width
    y_codes = y + y_start.to(tl.int64) * width
    product = multiply(x_codes, y_codes, width, rows, columns, depth)
    i = x_start + r
    j = y_start + c
    inside_x = (i >= x_begin) & (i < x_end)
    inside_y = (j >= y_begin) & (j < y_end)
    radius_i = tl.load(x_radius + i, mask=inside_x, other=-1)
    radius_j = tl.load(y_radius + j, mask=inside_y, other=-1)
    # Rows outside their range are far away, so that they do not hold up the tile.
    norm_i = tl.load(x_norms + i, mask=inside_x, other=1 << 29)
    norm_j = tl.load(y_norms + j, mask=inside_y, other=1 << 29)
    reach = (
        tl.maximum(radius_i[:, None], radius_j[None, :]) - (norm_i[:, None] + norm_j[None, :]) + 2 * product
    )
    append(
        reach, c, x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, out_i, out_j, counter, capacity,
        rows, columns, None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class GemmRows:
    """N rows as the kernel reads them.

    Attributes:
        codes: (at least N + a tile, D rounded up) int8, codes less 128; zero where there is no code.
        norms: (N,) int32, each row's sum of squares.
        radius: (N,) int32, -1 .. 65025 D: how far a row looks, in squared L2 of codes.
    """

    codes: Tensor
    norms: Tensor
    radius: Tensor

    @classmethod
    def of(cls, codes: Tensor, radius: Tensor, shape: GemmShape) -> GemmRows:
        """Centre codes (N, D) uint8, D <= MAX_DIMENSIONS, and clip radii (N,) of any integer type."""
        clipped = radius.clamp(-1, MAX_CODE**2 * codes.shape[1]).to(torch.int32)
        return cls(*centred(codes, shape), clipped)


def centred(codes: Tensor, shape: GemmShape) -> tuple[Tensor, Tensor]:
    """Return codes (N, D) uint8 as `GemmRows.codes` and `GemmRows.norms`; D <= MAX_DIMENSIONS."""
    n, d = codes.shape
    assert d <= MAX_DIMENSIONS
    width = -(-d // shape.depth) * shape.depth
    height = n + max(shape.rows, shape.columns)
    out = torch.zeros(height, width, dtype=torch.int8, device=codes.device)
    norms = torch.empty(n, dtype=torch.int32, device=codes.device)
    for start in range(0, n, ROWS_COPIED):
        rows = slice(start, min(start + ROWS_COPIED, n))
        out[rows, :d] = (codes[rows] ^ 128).view(torch.int8)
        norms[rows] = out[rows].to(torch.int32).square_().sum(dim=1, dtype=torch.int32)
    return out, norms


def launch_gemm(tiles: Tensor, survivors: Survivors, *, x: GemmRows, y: GemmRows, shape: GemmShape) -> None:
    """Append every pair (i, j) of the tiles with |u_i - u_j|^2 <= max(radius_i, radius_j).

    Args:
        tiles: (T, FIELDS) int32, `TileList.rows`.
        survivors: where the pairs go.
        x: rows i.
        y: rows j. Where it is x itself, of a pair of equal ranges only what is above the diagonal counts.
        shape: the one that the rows were made with.
    """
    assert tiles.shape[1] == FIELDS
    gemm_kernel[(tiles.shape[0],)](
        tiles, x.codes, x.norms, x.radius, y.codes, y.norms, y.radius,
        survivors.i, survivors.j, survivors.counter, survivors.capacity, x.codes.shape[1],
        rows=shape.rows, columns=shape.columns, depth=shape.depth, same=x is y,
        num_warps=shape.warps, num_stages=shape.stages, maxnreg=shape.registers,
    )  # fmt: skip
