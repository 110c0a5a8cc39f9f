# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The nearest of some reference rows by their codes: what radii and limits are made from.

The distances to all reference rows are int8 tensor cores' work, as in `gemm`; written down they would take
131 kB a row. So the reference rows are dealt into groups, and of each group only its nearest is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dm2at_ray.neighbors.gpu.gemm import GemmShape, centred, multiply
from dm2at_ray.neighbors.gpu.lang import jit, tl

SHAPE = GemmShape()

GROUPS = (128, 64, 32)
"""Reference rows of a group, the largest first: they divide a tile's columns."""

GROUPS_PER_NEIGHBOR = 6
"""So many groups for each neighbour wanted: then few of the nearest share a group."""

MAX_DIMENSIONS = 8192
"""Of more, squared distances come near what stands for a missing one."""

MISSING = 1 << 30

ROWS_AT_ONCE = 1 << 17
"""At most 256 MiB of distances and places for 32,768 reference rows."""


@jit
def nearest_kernel(
    x, x_norms, x_self, y, y_norms, out_squared, out_places, x_rows, y_rows, groups, width,
    rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """Store each row's smallest squared L2 to each group of `group` rows of y, and the place it has there."""
    x_start = tl.program_id(0) * rows
    y_start = tl.program_id(1) * columns
    product = multiply(
        x + x_start.to(tl.int64) * width, y + y_start.to(tl.int64) * width, width, rows, columns, depth
    )
    i = x_start + tl.arange(0, rows)
    j = y_start + tl.arange(0, columns)
    inside = i < x_rows
    norm_i = tl.load(x_norms + i, mask=inside, other=0)
    itself = tl.load(x_self + i, mask=inside, other=-1)
    norm_j = tl.load(y_norms + j, mask=j < y_rows, other=1 << 30)
    squared = norm_i[:, None] + norm_j[None, :] - 2 * product
    squared = tl.where(j[None, :] == itself[:, None], 1 << 30, squared)
    grouped = tl.reshape(squared, [rows, columns // group, group])
    least = tl.min(grouped, 2)
    number = tl.arange(0, group)[None, None, :]
    # Of equals the first one; nothing but the minimum has to be kept to find it.
    place = tl.min(tl.where(grouped == least[:, :, None], number, group), 2)
    g = tl.arange(0, columns // group)[None, :]
    at = i.to(tl.int64)[:, None] * groups + y_start // group + g
    tl.store(out_squared + at, least, mask=inside[:, None])
    tl.store(out_places + at, place + y_start + g * group, mask=inside[:, None])


def group_size(references: int, count: int, dims: int) -> int | None:
    """Return how many reference rows to take to a group; None where the groups would be too few."""
    if dims > MAX_DIMENSIONS:
        return None
    for size in GROUPS:
        if references >= GROUPS_PER_NEIGHBOR * count * size:
            return size
    return None


def nearest_codes(
    codes: Tensor, reference: Tensor, ids: Tensor, reference_ids: Tensor, count: int, group: int
) -> tuple[Tensor, Tensor]:
    """Find the nearest of groups of reference rows by their codes.

    The reference rows are dealt by turns, so that neighbours by id, which may be alike, are in different
    groups; a row's distances depend on the row alone. Where two of the very nearest are in one group, the
    farther one is passed over, and the next takes its place.

    Args:
        codes: (N, D) uint8, D <= MAX_DIMENSIONS.
        reference: (S, D) uint8.
        ids: (N,) int64.
        reference_ids: (S,) int64, ascending; a row does not find itself.
        count: at most as many as there are groups.
        group: reference rows of a group, in GROUPS.

    Returns:
        The squared L2 distances (N, count) int64, ascending, and the places of the reference rows; above
        2^31 - 2 where there is no such row.
    """
    device = codes.device
    groups = -(-len(reference) // group)
    turns = torch.arange(group * groups, device=device).view(group, groups).T.flatten()
    # The last turn is short: at the end of the last groups stand rows that are none.
    absent = turns >= len(reference)
    dealt = turns.masked_fill(absent, 0)
    y, y_norms = centred(reference[dealt], SHAPE)
    y[: len(dealt)][absent] = 0
    y_norms[absent] = MISSING
    tiles = -(-group * groups // SHAPE.columns)
    width = tiles * SHAPE.columns // group
    squared = codes.new_empty((len(codes), count), dtype=torch.int64)
    places = torch.empty_like(squared)
    for start in range(0, len(codes), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        x, x_norms = centred(codes[rows], SHAPE)
        least, at = (torch.empty(len(x_norms), width, dtype=torch.int32, device=device) for _ in range(2))
        nearest_kernel[(-(-len(x_norms) // SHAPE.rows), tiles)](
            x, x_norms, _places_of(ids[rows], reference_ids, groups, group), y, y_norms, least, at,
            len(x_norms), group * groups, width, x.shape[1],
            rows=SHAPE.rows, columns=SHAPE.columns, depth=SHAPE.depth, group=group,
            num_warps=SHAPE.warps, num_stages=SHAPE.stages, maxnreg=SHAPE.registers,
        )  # fmt: skip
        nearest = least.topk(count, dim=1, largest=False)
        found = nearest.values.to(torch.int64)
        squared[rows] = found.masked_fill_(found >= MISSING, torch.iinfo(torch.int64).max)
        places[rows] = dealt[at.gather(1, nearest.indices).to(torch.int64).clamp_(max=len(dealt) - 1)]
    return squared, places


def _places_of(ids: Tensor, reference_ids: Tensor, groups: int, group: int) -> Tensor:
    """Return (N,) int32 where each row itself was dealt to; -1 for those that are no reference rows."""
    at = torch.searchsorted(reference_ids, ids).clamp_(max=len(reference_ids) - 1)
    dealt = at % groups * group + at // groups
    return torch.where(reference_ids[at] == ids, dealt, -1).to(torch.int32)
