# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The certified filter's other kernel: L1 of features as float16, two dimensions an instruction.

It takes over where 8 bits are too coarse, as with features of very unlike sizes: a third of the speed, but
what it leaves is within a percent of what must be measured. Sums run in float16 for CHAIN words and go on in
float32, so the rounding of each pair has a proven bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.lang import gl, gluon_jit, jit, tl
from dm2at_ray.neighbors.gpu.survivors import Survivors, append, open_tile
from dm2at_ray.neighbors.gpu.tiles import FIELDS

CHAIN = 16
"""Words summed in float16: more are faster, and the bound is looser by 2^-11 for each."""

LARGEST = 1024.0
"""No scaled feature is larger, so that CHAIN differences of two stay below float16's 65,504."""

ROWS, COLUMNS = 64, 128
"""Of a tile: as the SAD kernel's, so that one can take over from the other."""

REGISTERS = 128

ROWS_SCALED = 1 << 14
"""Rows turned into words at once: 64 MiB as float64 for 512 dimensions."""

ROWS_SAMPLED = 1024


def overstated(dims: int) -> float:
    """Return the factor by which a sum of the kernel may be too large.

    A term is rounded when it is subtracted, and its sum at most CHAIN - 1 times in float16 (relative error
    2^-11 each; differences and sums of float16 never underflow), then at most once for each word in float32.
    """
    return (1 + 2.0**-11) ** CHAIN * (1 + 2.0**-24) ** (dims + 4)


@jit
def half_of(words, high: tl.constexpr):
    """Return one of the two float16 in each word."""
    bits = (words >> 16) if high else ((words << 16) >> 16)
    return bits.to(tl.int16).to(tl.float16, bitcast=True)


@jit
def add_differences(a, b, total, layout: tl.constexpr):
    """Return total + |a - b| of words of two float16: a (A, 1), b (1, B), total (A, B), all int32."""
    if layout is not None:
        total = tl.inline_asm_elementwise(
            "{ .reg .b32 t; sub.rn.f16x2 t, $1, $2; abs.f16x2 t, t; add.rn.f16x2 $0, t, $3; }",
            "=r,r,r,r",
            [a, b, total],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        low = half_of(total, False) + tl.abs(half_of(a, False) - half_of(b, False))
        high = half_of(total, True) + tl.abs(half_of(a, True) - half_of(b, True))
        low_bits = low.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        total = (high.to(tl.int16, bitcast=True).to(tl.int32) << 16) | low_bits
    return total


@jit
def add_halves(words, total, layout: tl.constexpr):
    """Return total + both float16 of each word, in float32."""
    if layout is not None:
        total = tl.inline_asm_elementwise(
            "{ .reg .b16 l, h; .reg .f32 p, q; mov.b32 {l, h}, $1; cvt.f32.f16 p, l; cvt.f32.f16 q, h; "
            "add.rn.f32 p, p, q; add.rn.f32 $0, p, $2; }",
            "=f,r,f",
            [words, total],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        total += half_of(words, False).to(tl.float32) + half_of(words, True).to(tl.float32)
    return total


@jit
def halves_tile(
    tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
    words, r, c, total, zero, rows: tl.constexpr, columns: tl.constexpr, chain: tl.constexpr,
    same: tl.constexpr, layout: tl.constexpr,
):  # fmt: skip
    """Append the pairs of one tile with L1 of words <= max(x_reach, y_reach) + x_slack + y_slack, float32.

    r (A,) and c (B,) count a tile's rows of x and y, total (A, B) float32 and zero (A, B) int32 are zero: the
    caller chose their layouts.
    """
    x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, idle = open_tile(
        tiles, counter, capacity, columns, same
    )
    if idle:
        return
    x_words = x + x_start
    y_words = y + y_start
    for _ in range(0, words, chain):
        part = zero
        for _ in tl.static_range(chain):
            a = tl.load(x_words + r)
            b = tl.load(y_words + c)
            part = add_differences(a[:, None], b[None, :], part, layout)
            x_words += x_stride
            y_words += y_stride
        total = add_halves(part, total, layout)
    i = x_start + r
    j = y_start + c
    inside_x = (i >= x_begin) & (i < x_end)
    inside_y = (j >= y_begin) & (j < y_end)
    # Rows outside their range reach nothing, so that they do not hold up the tile.
    reach_i = tl.load(x_reach + i, mask=inside_x, other=0.0)
    slack_i = tl.load(x_slack + i, mask=inside_x, other=-1e30)
    reach_j = tl.load(y_reach + j, mask=inside_y, other=0.0)
    slack_j = tl.load(y_slack + j, mask=inside_y, other=-1e30)
    bound = tl.maximum(reach_i[:, None], reach_j[None, :]) + (slack_i[:, None] + slack_j[None, :])
    append(
        tl.where(total <= bound, 0, -1), c, x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal,
        out_i, out_j, counter, capacity, rows, columns, layout,
    )  # fmt: skip


@gluon_jit
def halves_kernel(
    tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
    words, rows: gl.constexpr, columns: gl.constexpr, chain: gl.constexpr, same: gl.constexpr,
):  # fmt: skip
    """`halves_tile` with 8 x 4 pairs a thread: each needs two registers."""
    layout: gl.constexpr = gl.BlockedLayout([4, 4], [4, 8], [2, 4], [1, 0])
    words_layout: gl.constexpr = gl.BlockedLayout([1, 1], [8, 4], [8, 1], [1, 0])
    r = gl.arange(0, rows, layout=gl.SliceLayout(1, layout))
    c = gl.arange(0, columns, layout=gl.SliceLayout(0, layout))
    total = gl.zeros([rows, columns], gl.float32, layout=layout)
    zero = gl.zeros([rows, columns], gl.int32, layout=layout)
    halves_tile(
        tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
        words, r, c, total, zero, rows, columns, chain, same, words_layout,
    )  # fmt: skip


@jit
def halves_kernel_plain(
    tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
    words, rows: tl.constexpr, columns: tl.constexpr, chain: tl.constexpr, same: tl.constexpr,
):  # fmt: skip
    """`halves_tile` as Triton's interpreter can run it on a CPU, with neither layouts nor PTX."""
    r = tl.arange(0, rows)
    c = tl.arange(0, columns)
    total = tl.zeros([rows, columns], tl.float32)
    zero = tl.zeros([rows, columns], tl.int32)
    halves_tile(
        tiles, x, x_stride, y, y_stride, x_reach, x_slack, y_reach, y_slack, out_i, out_j, counter, capacity,
        words, r, c, total, zero, rows, columns, chain, same, None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scale:
    """h = (x - centre) / unit in float16, |h| <= LARGEST.

    Attributes:
        centre: (D,) float64.
        unit: a power of two.
    """

    centre: Tensor
    unit: float

    @classmethod
    def fit(cls, x: Tensor, y: Tensor) -> Scale:
        """Choose for all rows of x (N, D) and y (M, D), neither empty: the nearer to zero, the finer."""
        centre = x[:: max(1, len(x) // ROWS_SAMPLED)].median(dim=0).values.to(torch.float64)
        farthest = max(
            float((part - centre).abs().amax()) for rows in (x, y) for part in rows.split(ROWS_SCALED)
        )
        # frexp: farthest < 2^exponent.
        exponent = math.frexp(farthest)[1] - math.frexp(LARGEST)[1] + 1 if farthest > 0 else 0
        return cls(centre, 2.0**exponent)

    def words(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) word-major, and by how much they are off.

        Returns:
            (W, at least N + a tile) int32, each two dimensions of a row, zero where there are none; W is
            D / 2 rounded up to whole chains. And (N,) float64, each row's L1 distance from its words,
            float64's own rounding included.
        """
        n, d = features.shape
        count = -(-d // (2 * CHAIN)) * CHAIN
        width = -(-(n + max(ROWS, COLUMNS)) // 16) * 16
        out = torch.zeros(count, width, dtype=torch.int32, device=features.device)
        residuals = torch.empty(n, dtype=torch.float64, device=features.device)
        for start in range(0, n, ROWS_SCALED):
            rows = slice(start, min(start + ROWS_SCALED, n))
            scaled = (features[rows].to(torch.float64) - self.centre) / self.unit
            halves = scaled.to(torch.float16)
            residuals[rows] = scaled.sub_(halves).abs_().sum(dim=1) + d * LARGEST * 2.0**-52
            padded = torch.nn.functional.pad(halves, (0, 2 * count - d))
            out[:, rows] = padded.contiguous().view(torch.int32).T
        return out, residuals


@dataclass(frozen=True, eq=False)
class HalfRows:
    """N rows as the kernel reads them.

    Attributes:
        words: (W, at least N + a tile) int32, `Scale.words`.
        reach: (N,) float32: how far a row looks, in the scale's units.
        slack: (N,) float32: by how much its words may overstate a distance, in the same.
    """

    words: Tensor
    reach: Tensor
    slack: Tensor


def launch_halves(tiles: Tensor, survivors: Survivors, *, x: HalfRows, y: HalfRows) -> None:
    """Append every pair (i, j) of the tiles with L1(i, j) <= max(reach_i, reach_j) + slack_i + slack_j.

    Args:
        tiles: (T, FIELDS) int32, `TileList.rows`, of ROWS x COLUMNS.
        survivors: where the pairs go.
        x: rows i.
        y: rows j. Where it is x itself, of a pair of equal ranges only what is above the diagonal counts.
    """
    assert tiles.shape[1] == FIELDS
    kernel = halves_kernel if tiles.is_cuda else halves_kernel_plain
    kernel[(tiles.shape[0],)](
        tiles, x.words, x.words.stride(0), y.words, y.words.stride(0), x.reach, x.slack, y.reach, y.slack,
        survivors.i, survivors.j, survivors.counter, survivors.capacity, x.words.shape[0],
        rows=ROWS, columns=COLUMNS, chain=CHAIN, same=x is y, num_warps=8, maxnreg=REGISTERS,
    )  # fmt: skip
