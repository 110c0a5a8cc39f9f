"""Cells of the pool, and which of them a row looks into: the routed engine's map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dm2at_ray.neighbors import backend
from dm2at_ray.neighbors.block import TILE

ROWS_PER_CELL = 100
"""Finer cells scan less for the same recall; below this the overhead of a cell shows."""
LLOYD_ROUNDS = 8
SAMPLE_PER_CELL = 32
LARGEST_SAMPLE = 1 << 18
DISTANCES_AT_ONCE = 1 << 24


def cell_count(rows: int) -> int:
    """Cells for a pool: one for 100 rows, above a million rows 10 sqrt(N), which keeps routing at N^1.5."""
    return max(1, min(rows // ROWS_PER_CELL, int(10 * math.sqrt(rows))))


@dataclass(frozen=True, eq=False)
class Cells:
    """Centroids of a two-level k-means (by L2, on a sample), children of one coarse cell side by side.

    Attributes:
        centroids: (K, D) float32.
    """

    centroids: Tensor

    def __len__(self) -> int:
        return self.centroids.shape[0]

    def to(self, device: torch.device) -> Cells:
        """The same map on another device."""
        return Cells(self.centroids.to(device))

    @classmethod
    def fit(cls, sample: Tensor, count: int) -> Cells:
        """Divide a sample (S, D) into about `count` cells.

        Two levels of sqrt(count) cells each cost S * sqrt(count) and route as well as one level does.
        """
        coarse = _k_means(sample, max(1, round(math.sqrt(count))))
        cell = _nearest(sample, coarse, 1)[:, 0]
        fine = []
        for number in range(coarse.shape[0]):
            members = sample[cell == number]
            if len(members):
                share = count * len(members) / len(sample)
                fine.append(_k_means(members, min(len(members), max(1, round(share)))))
        return cls(torch.cat(fine))

    def probes(self, sample_ids: Tensor, features: Tensor, count: int) -> Tensor:
        """Return the `count` nearest cells (N, count) int32 of rows (N, D), the very nearest first.

        A row belongs to the first and looks for its neighbours in all of them. Rows with the same
        sample id // TILE are taken together, padded to TILE: a matrix product rounds differently at another
        shape, and a row between two cells must go to the same one however the pool is cut.
        """
        found = torch.empty(
            (len(sample_ids), min(count, len(self))), dtype=torch.int32, device=features.device
        )
        padded = features.new_zeros((TILE, features.shape[1]))
        start = 0
        groups = torch.div(sample_ids, TILE, rounding_mode="floor")
        for rows in groups.unique_consecutive(return_counts=True)[1].tolist():
            padded[:rows] = features[start : start + rows]
            cells = _nearest(padded, self.centroids, found.shape[1])[:rows]
            found[start : start + rows] = cells.to(torch.int32)
            start += rows
        return found

    def rank(self, features: Tensor, cell: Tensor) -> Tensor:
        """Return how many cells are nearer to rows (N, D) than their cell (N,)."""
        ranks = []
        step = max(1, DISTANCES_AT_ONCE // len(self))
        for start in range(0, features.shape[0], step):
            distances = _to_centroids(features[start : start + step], self.centroids)
            own = distances.gather(1, cell[start : start + step, None])
            ranks.append((distances < own).sum(dim=1))
        return torch.cat(ranks)


def probes_for_recall(cells: Cells, queries: Tensor, neighbors: Tensor, recall: float) -> int:
    """Choose how many cells a row must look into, from the true neighbours of a pilot sample.

    A pair is met if either row looks into the other's cell.

    Args:
        cells: The map.
        queries: (Q, D) features of the pilot rows.
        neighbors: (Q, k, D) features of their true k nearest.
        recall: Wanted; met by the pilot's mean less 1.64 standard errors (one-sided 95 %).
    """
    q, k, d = neighbors.shape
    flat = neighbors.reshape(q * k, d)
    home = _nearest(queries, cells.centroids, 1)[:, 0].repeat_interleave(k)
    there = _nearest(flat, cells.centroids, 1)[:, 0]
    onward = cells.rank(queries.repeat_interleave(k, dim=0), there)
    back = cells.rank(flat, home)
    needed = torch.minimum(onward, back).view(q, k)
    low, high = 1, len(cells)
    while low < high:
        middle = (low + high) // 2
        if _surely(needed < middle, recall):
            high = middle
        else:
            low = middle + 1
    return low


def _surely(met: Tensor, recall: float) -> bool:
    """Whether the mean of rows' shares is at least `recall`, less 1.64 standard errors."""
    shares = met.to(torch.float64).mean(dim=1)
    error = shares.std(correction=0) / math.sqrt(len(shares))
    return bool(shares.mean() - 1.64 * error >= recall)


def _nearest(features: Tensor, centroids: Tensor, count: int) -> Tensor:
    """Return the `count` nearest centroids (N, count) int64 by L2 of rows (N, D), the very nearest first."""
    step = max(1, DISTANCES_AT_ONCE // centroids.shape[0])
    parts = features.split(step) if len(features) else ()
    if count == 1:
        found = [_to_centroids(part, centroids).argmin(dim=1, keepdim=True) for part in parts]
    else:
        found = [backend.smallest(_to_centroids(part, centroids), count) for part in parts]
    return torch.cat(found) if found else torch.empty((0, count), dtype=torch.int64)


def _to_centroids(features: Tensor, centroids: Tensor) -> Tensor:
    """Return |c|^2 - 2 x.c, centred on the centroids' mean: orders as the L2 distance does.

    Far from the origin the product would round away what tells the centroids apart.
    """
    centre = centroids.mean(dim=0)
    features, centroids = features - centre, centroids - centre
    return torch.addmm(centroids.square().sum(dim=1), features, centroids.T, alpha=-2)


def _k_means(x: Tensor, count: int) -> Tensor:
    """Lloyd's algorithm from evenly spaced rows; an emptied centroid stays where it was."""
    centroids = x[torch.linspace(0, len(x) - 1, count).round().to(torch.int64)].clone()
    if count == 1:
        return x.mean(dim=0, keepdim=True)
    for _ in range(LLOYD_ROUNDS):
        cell, order = _nearest(x, centroids, 1)[:, 0].sort(stable=True)
        sizes = torch.bincount(cell, minlength=count)
        # Not index_add: on a GPU its order of summation, and so the last bits, change from run to run.
        sums = torch.segment_reduce(x[order], "sum", lengths=sizes, axis=0, initial=0)
        filled = sizes > 0
        centroids[filled] = sums[filled] / sizes[filled, None]
    return centroids
