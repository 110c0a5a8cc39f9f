# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""D of single pairs of rows in float32, to the same bits in whatever batch a pair is met.

A warp measures four pairs. The layout is spelled out, so the order in which a pair's terms are added
depends on the dimension alone: not on the batch, the pair's place in it, or the alignment of the rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.lang import gl, gluon_jit, jit, tl
from dm2at_ray.neighbors.metric import Metric

PAIRS = 16
"""Pairs of a program: four warps, four pairs each, whose eight 16-byte loads are in flight together."""

DEPTH = 128
"""Dimensions taken at once: 32 lanes, four each."""


@jit
def pairs_tile(
    x, y, rows_i, rows_j, out, count, d, l1_weight, l2_weight, p, inner, l1, squares, depth: tl.constexpr
):
    """Measure D of the pairs `p` (P,); l1 and squares (P, depth) are zero, in the caller's layout."""
    inside = p < count
    i = tl.load(rows_i + p, mask=inside, other=0).to(tl.int64)
    j = tl.load(rows_j + p, mask=inside, other=0).to(tl.int64)
    x_rows = (x + i * d)[:, None]
    y_rows = (y + j * d)[:, None]
    for start in range(0, d, depth):
        at = (start + inner)[None, :]
        a = tl.load(x_rows + at, mask=at < d, other=0.0)
        b = tl.load(y_rows + at, mask=at < d, other=0.0)
        difference = tl.abs(a - b)
        l1 += difference
        squares = tl.fma(difference, difference, squares)
    l2 = tl.sqrt_rn(tl.sum(squares, 1))
    tl.store(out + p, tl.fma(l2, l2_weight, l1_weight * tl.sum(l1, 1)), mask=inside)


@gluon_jit
def pairs_kernel(
    x, y, rows_i, rows_j, out, count, d, l1_weight, l2_weight, pairs: gl.constexpr, depth: gl.constexpr
):  # fmt: skip
    """`pairs_tile` with the layout that fixes the order of summation."""
    layout: gl.constexpr = gl.BlockedLayout([4, 4], [1, 32], [4, 1], [1, 0])
    p = gl.program_id(0) * pairs + gl.arange(0, pairs, layout=gl.SliceLayout(1, layout))
    inner = gl.arange(0, depth, layout=gl.SliceLayout(0, layout))
    l1 = gl.zeros([pairs, depth], gl.float32, layout=layout)
    squares = gl.zeros([pairs, depth], gl.float32, layout=layout)
    pairs_tile(x, y, rows_i, rows_j, out, count, d, l1_weight, l2_weight, p, inner, l1, squares, depth)


@jit
def pairs_kernel_plain(
    x, y, rows_i, rows_j, out, count, d, l1_weight, l2_weight, pairs: tl.constexpr, depth: tl.constexpr
):  # fmt: skip
    """`pairs_tile` as Triton's interpreter can run it on a CPU."""
    p = tl.program_id(0) * pairs + tl.arange(0, pairs)
    inner = tl.arange(0, depth)
    l1 = tl.zeros([pairs, depth], tl.float32)
    squares = tl.zeros([pairs, depth], tl.float32)
    pairs_tile(x, y, rows_i, rows_j, out, count, d, l1_weight, l2_weight, p, inner, l1, squares, depth)


def pair_distances(x: Tensor, i: Tensor, y: Tensor, j: Tensor, metric: Metric) -> Tensor:
    """Return D(x[i[p]], y[j[p]]) for each of P pairs as (P,) float32.

    Args:
        x: (N, D) float32, contiguous.
        i: (P,) int32 rows of x.
        y: (M, D) float32, contiguous.
        j: (P,) int32 rows of y.
        metric: the weights of D.
    """
    assert x.is_contiguous()
    assert y.is_contiguous()
    count = i.shape[0]
    out = torch.empty(count, dtype=torch.float32, device=x.device)
    if count:
        kernel = pairs_kernel if x.is_cuda else pairs_kernel_plain
        kernel[(-(-count // PAIRS),)](
            x, y, i, j, out, count, x.shape[1], metric.l1_weight, metric.l2_weight,
            pairs=PAIRS, depth=DEPTH, num_warps=4,
        )  # fmt: skip
        tiny = metric.may_lack_squares(out, x.shape[1]).nonzero()[:, 0]
        if len(tiny):
            out[tiny] = metric.of_pairs(x, i[tiny].to(torch.int64), y, j[tiny].to(torch.int64))
    return out
