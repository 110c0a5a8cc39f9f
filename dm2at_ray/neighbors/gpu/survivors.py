# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The pairs a filter leaves, appended to one bounded buffer by all tiles of a launch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.lang import gl, jit, tl


@jit
def open_tile(tiles, counter, capacity, columns: tl.constexpr, same: tl.constexpr):
    """Return this program's tile, whether it is a diagonal one, and whether there is nothing to do.

    There is nothing to do below the diagonal; nor once the buffer has overflowed, as this launch's pairs
    will be discarded: that makes the overflow cheap, and keeps the int32 counter from wrapping.
    """
    tile = tiles + tl.program_id(0).to(tl.int64) * 6
    x_start = tl.multiple_of(tl.load(tile), 8)
    x_begin = tl.load(tile + 1)
    x_end = tl.load(tile + 2)
    y_start = tl.multiple_of(tl.load(tile + 3), 8)
    y_begin = tl.load(tile + 4)
    y_end = tl.load(tile + 5)
    # Ranges of a pair are equal or disjoint, so equal begins tell them apart.
    diagonal = same and (x_begin == y_begin)
    idle = tl.load(counter, volatile=True) > capacity
    if same:
        idle = idle | (diagonal & (y_start + columns <= x_start + 1))
    return x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, idle


@jit
def append(
    reach, c, x_start, x_begin, x_end, y_start, y_begin, y_end, diagonal, out_i, out_j, counter, capacity,
    rows: tl.constexpr, columns: tl.constexpr, layout: tl.constexpr,
):  # fmt: skip
    """Append the pairs of a tile that have reach >= 0 and lie in their ranges.

    A row's 32 columns become the bits of a word, which takes two instructions a pair, and then each word
    gives up a bit at a time. So a tile that has no such pair is through at once, and one that has a few
    need not look at all its pairs again.

    Args:
        reach: (rows, columns) int32.
        c: (columns,) counts them, in the layout of `reach`.
        layout: of the words, in Gluon; None in Triton.
    """
    bits = tl.where(reach >= 0, (1 << (c & 31))[None, :], 0).to(tl.uint32, bitcast=True)
    words = tl.sum(tl.reshape(bits, [rows, columns // 32, 32]), 2).to(tl.int32, bitcast=True)
    if layout is None:
        r = tl.arange(0, rows)
        group = tl.arange(0, columns // 32)
    else:
        # One thread a word: after the sum several hold the same.
        words = gl.convert_layout(words, layout)
        r = gl.arange(0, rows, layout=gl.SliceLayout(1, layout))
        group = gl.arange(0, columns // 32, layout=gl.SliceLayout(0, layout))
    i = x_start + r[:, None] + 0 * group[None, :]
    first = y_start + 0 * r[:, None] + 32 * group[None, :]
    inside = (i >= x_begin) & (i < x_end)
    while tl.max(tl.max((words != 0).to(tl.int32), 1), 0) > 0:
        lowest = words & -words
        # The exponent of a power of two is its number; of 0 it is -127, and not used.
        exponent = lowest.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23
        j = first + exponent - 127
        near = (words != 0) & inside & (j >= y_begin) & (j < y_end) & ((j > i) | (not diagonal))
        at = tl.atomic_add(counter + 0 * i, 0 * i + 1, mask=near, sem="relaxed")
        near = near & (at < capacity)
        tl.store(out_i + at, i, mask=near)
        tl.store(out_j + at, j, mask=near)
        words = words ^ lowest


@dataclass(frozen=True, eq=False)
class Survivors:
    """A buffer of pairs of rows, and how many were found.

    Attributes:
        i: (capacity,) int32 rows of x.
        j: (capacity,) int32 rows of y.
        counter: (1,) int32 pairs found; above the capacity, some of the last launch's are missing.
    """

    i: Tensor
    j: Tensor
    counter: Tensor

    @classmethod
    def empty(cls, capacity: int, device: torch.device | str) -> Survivors:
        """Allocate room for `capacity` pairs: 8 bytes each."""
        i, j = (torch.empty(capacity, dtype=torch.int32, device=device) for _ in range(2))
        return cls(i, j, torch.zeros(1, dtype=torch.int32, device=device))

    @property
    def capacity(self) -> int:
        """Pairs there is room for."""
        return self.i.shape[0]

    def found(self) -> int:
        """Return the pairs found so far; waits for the device."""
        return int(self.counter)

    def pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` pairs as two (count,) int32 views."""
        return self.i[:count], self.j[:count]
