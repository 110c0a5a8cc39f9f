# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""D of all pairs of a few queries and many rows, in float32: what audits search by.

Each thread sums 8 x 4 pairs in registers: two additions and one multiply-add for a pair and a dimension,
which bounds the kernel, to three loads for 32 pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.lang import gl, gluon_jit, jit, tl
from dm2at_ray.neighbors.metric import Metric

TILE = 64
"""Queries and rows of a tile."""

VALUES_COPIED = 1 << 26
"""Features stored dimension-major at once, 256 MiB: the rows are taken in parts of so many."""


@jit
def measure_tile(
    x, x_stride, y, y_stride, out, out_stride, queries, rows, d, l1_weight, l2_weight, r, c, l1, squares
):
    """Measure one tile of x (D, Q) and y (D, N); l1 and squares (A, B) are zero, in the caller's layout."""
    i = tl.program_id(1) * l1.shape[0] + r
    j = tl.program_id(0) * l1.shape[1] + c
    x_values = x
    y_values = y
    for _ in range(d):
        a = tl.load(x_values + i)
        b = tl.load(y_values + j)
        difference = tl.abs(a[:, None] - b[None, :])
        l1 += difference
        squares = tl.fma(difference, difference, squares)
        x_values += x_stride
        y_values += y_stride
    distance = l1_weight * l1 + l2_weight * tl.sqrt_rn(squares)
    at = (i.to(tl.int64) * out_stride)[:, None] + j[None, :]
    tl.store(out + at, distance, mask=(i < queries)[:, None] & (j < rows)[None, :])


@gluon_jit
def measure_kernel(
    x, x_stride, y, y_stride, out, out_stride, queries, rows, d, l1_weight, l2_weight, tile: gl.constexpr
):  # fmt: skip
    """`measure_tile` with 8 x 4 pairs a thread, read 16 bytes at a time."""
    layout: gl.constexpr = gl.BlockedLayout([4, 4], [4, 8], [2, 2], [1, 0])
    r = gl.arange(0, tile, layout=gl.SliceLayout(1, layout))
    c = gl.arange(0, tile, layout=gl.SliceLayout(0, layout))
    l1 = gl.zeros([tile, tile], gl.float32, layout=layout)
    squares = gl.zeros([tile, tile], gl.float32, layout=layout)
    measure_tile(
        x, x_stride, y, y_stride, out, out_stride, queries, rows, d, l1_weight, l2_weight, r, c, l1, squares
    )  # fmt: skip


@jit
def measure_kernel_plain(
    x, x_stride, y, y_stride, out, out_stride, queries, rows, d, l1_weight, l2_weight, tile: tl.constexpr
):  # fmt: skip
    """`measure_tile` as Triton's interpreter can run it on a CPU."""
    r = tl.arange(0, tile)
    c = tl.arange(0, tile)
    l1 = tl.zeros([tile, tile], tl.float32)
    squares = tl.zeros([tile, tile], tl.float32)
    measure_tile(
        x, x_stride, y, y_stride, out, out_stride, queries, rows, d, l1_weight, l2_weight, r, c, l1, squares
    )  # fmt: skip


def measure(queries: Tensor, rows: Tensor, metric: Metric) -> Tensor:
    """Return D(queries[q], rows[n]) of all pairs as (Q, N) float32.

    Each entry depends on its two rows only. It may differ in the last bits from `pair_distances`, which adds
    in another order.

    Args:
        queries: (Q, D) float32.
        rows: (N, D) float32, on the same device; the caller bounds Q N.
        metric: the weights of D.
    """
    (q, d), n = queries.shape, rows.shape[0]
    out = torch.empty(q, n, dtype=torch.float32, device=queries.device)
    if not q:
        return out
    x = _dimension_major(queries)
    kernel = measure_kernel if queries.is_cuda else measure_kernel_plain
    step = max(TILE, VALUES_COPIED // d // TILE * TILE)
    for start in range(0, n, step):
        part = rows[start : start + step]
        y = _dimension_major(part)
        kernel[(-(-part.shape[0] // TILE), -(-q // TILE))](
            x, x.stride(0), y, y.stride(0), out[:, start:], n, q, part.shape[0], d,
            metric.l1_weight, metric.l2_weight, tile=TILE, num_warps=4,
        )  # fmt: skip
    query, row = metric.may_lack_squares(out, d).nonzero(as_tuple=True)
    if len(query):
        out[query, row] = metric.of_pairs(queries, query, rows, row)
    return out


def _dimension_major(rows: Tensor) -> Tensor:
    """Return rows (N, D) as (D, N rounded up to whole tiles); what is beyond N is never stored."""
    n, d = rows.shape
    out = torch.zeros(d, -(-n // TILE) * TILE, dtype=torch.float32, device=rows.device)
    out[:, :n] = rows.T
    return out
