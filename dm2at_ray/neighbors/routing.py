"""The routed engine: rows in the order of their cells, each searched in the cells it looks into."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dm2at_ray.neighbors import backend
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.plan import Plan
from dm2at_ray.neighbors.result import Neighbors
from dm2at_ray.neighbors.topk import distances_of, merge_keys, neighbors_of


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of some consecutive cells, in the order of their cells.

    Attributes:
        rows: (N, D) the rows.
        probes: (N, P) integers, the cells that each row looks into; it belongs to the first.
    """

    rows: Encoded
    probes: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def cells(self) -> tuple[int, int]:
        """First and last cell in which there are rows."""
        return int(self.probes[0, 0]), int(self.probes[-1, 0])

    def bounds(self) -> np.ndarray:
        """Where each cell from the first to the last begins, and the end."""
        first, last = self.cells
        return np.searchsorted(self.probes[:, 0], np.arange(first, last + 2))


def cut_cells(sizes: np.ndarray, rows: int) -> np.ndarray:
    """Cut cells of given sizes (K,) into shards of about so many rows: the first cell of each, and the end.

    Examples:
        >>> cut_cells(np.array([3, 4, 0, 9, 1]), rows=7).tolist()
        [0, 3, 4, 5]
    """
    cuts, held = [0], 0
    for cell, size in enumerate(sizes.tolist()):
        if held and held + size > rows:
            cuts.append(cell)
            held = 0
        held += size
    return np.array([*cuts, len(sizes)])


def search_shards(plan: Plan, a: Shard, b: Shard, threads: int = 1) -> tuple[Neighbors, Neighbors]:
    """Find the k nearest among the pairs of which either row looks into the other's cell.

    Memory beside the two shards: their codes once more, 8 k bytes a row, and 32 bytes for each cell of the
    other shard that a row looks into.
    """
    options: dict[str, Any] = {
        "k": plan.search.k,
        "metric": plan.search.metric,
        "step": plan.quantizer.step,
        "threads": threads,
    }
    of_a, of_b = backend.search_lists(a.rows, b.rows, *_meetings(a, b), **options)
    if a is not b:
        tightened = [
            replace(each.rows, limit=torch.minimum(each.rows.limit, distances_of(keys[:, -1])))
            for each, keys in ((a, of_a), (b, of_b))
        ]
        back_b, back_a = backend.search_lists(tightened[1], tightened[0], *_meetings(b, a), **options)
        of_a, of_b = merge_keys(of_a, back_a), merge_keys(of_b, back_b)
    ids_a, ids_b = (each.rows.sample_ids.sort().values for each in (a, b))
    return neighbors_of(of_a, ids_b), neighbors_of(of_b, ids_a)


def _meetings(x: Shard, y: Shard) -> tuple[np.ndarray, np.ndarray]:
    """Rows of x beside the cells of y that they look into, as `backend.search_lists` takes them."""
    nothing = np.empty(0, np.int64), np.empty((0, 6), np.int64)
    if not len(x) or not len(y):
        return nothing
    (first, last), bounds_x, bounds_y = y.cells, x.bounds(), y.bounds()
    inside = (x.probes >= first) & (x.probes <= last)
    row = inside.nonzero()[0]
    if not len(row):
        return nothing
    # By cell of y, then by row, and so by cell of x.
    keys = (x.probes[inside].astype(np.int64) << 32) | row
    keys.sort()
    cell, row = (keys >> 32) - first, keys & 0xFFFFFFFF
    home = x.probes[row, 0].astype(np.int64) - x.cells[0]
    begins = np.flatnonzero(np.diff(cell, prepend=-1) | np.diff(home, prepend=-1))
    ends = np.append(begins[1:], len(row))
    cell, home = cell[begins], home[begins]
    pairs = [begins, ends, bounds_y[cell], bounds_y[cell + 1], bounds_x[home], bounds_x[home + 1]]
    listed = np.stack(pairs, axis=1).astype(np.int64)
    return row, listed[listed[:, 2] < listed[:, 3]]
