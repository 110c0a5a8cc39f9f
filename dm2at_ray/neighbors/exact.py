"""The exact engine: no pair is left out unless a bound proves that it cannot be among the k nearest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.tiles import TILE, Tile

# Bytes of |x - y| held at once on a CPU: about what a core's second-level cache keeps.
CACHE_BYTES = 1 << 21


class Exact:
    """Measures L1 of every pair, and D of those that L1 does not rule out.

    As |v|_2 >= |v|_1 / sqrt(d), D >= |x - y|_1 * (l1_weight + l2_weight / sqrt(d)): a pair for which this is
    above the k-th distances of both its rows need not be measured under D. On features of convolutional
    nets a dozen pairs a row are left for k = 10.
    """

    def __init__(self, k: int, metric: Metric) -> None:
        self.k = k
        self.metric = metric

    def tiles(self, block: Block) -> list[Tile]:
        """Cut every TILE rows; the answer is the same for any cut."""
        return [
            Tile(slice(start, min(start + TILE, len(block))), block.features[start : start + TILE])
            for start in range(0, len(block), TILE)
        ]

    def candidates(self, x: Tile, y: Tile, worst_x: Tensor, worst_y: Tensor) -> Tensor:
        """Return the pairs whose lower bound is within reach of either row's k-th distance."""
        l1 = pairwise_l1(x.features, y.features)  # (N, M)
        if x is y:
            l1.fill_diagonal_(torch.inf)
        limit_x = self._within_reach(l1, x, y, worst_x)
        limit_y = limit_x if x is y else self._within_reach(l1.T, y, x, worst_y)
        return l1 <= torch.maximum(limit_x[:, None], limit_y)

    def _within_reach(self, l1: Tensor, x: Tile, y: Tile, worst: Tensor) -> Tensor:
        """Return (N,) the largest L1 with which a pair may still be among a row's k nearest.

        Rows that have not found k yet take as their k-th distance the largest D to the k nearest of this
        tile by L1: some k are that near, so the k nearest are no farther.
        """
        rows, columns = l1.shape
        if columns - (x is y) >= self.k and bool(torch.isinf(worst).any()):
            near = l1.topk(self.k, dim=1, largest=False, sorted=False).indices  # (N, k)
            i = torch.arange(rows, device=near.device).repeat_interleave(self.k)
            measured = self.metric.of_pairs(x.features, i, y.features, near.flatten())
            worst = torch.minimum(worst, measured.view(rows, self.k).amax(dim=1))
        d = x.features.shape[1]
        # Rounding of L1 and of D is below (d + 8) * 2^-23 of either, however they are added up; 1e-18 covers
        # differences whose squares vanish in float32.
        slack = 1 + (d + 8) * 2.0**-22
        return worst * (slack / (self.metric.l1_weight + self.metric.l2_weight / math.sqrt(d))) + d * 1e-18


def pairwise_l1(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|_1 as (N, M) float32, to within rounding.

    On a CPU a few rows at a time stay in cache, which is two to three times faster than torch.cdist.
    """
    if x.is_cuda:
        return torch.cdist(x, y, p=1.0)
    n, d = x.shape
    m = y.shape[0]
    step = max(1, CACHE_BYTES // (4 * m * d))
    l1 = x.new_empty(n, m)
    buffer = x.new_empty(step, m, d)
    for start in range(0, n, step):
        part_x = x[start : start + step, None]  # (S, 1, D)
        part = torch.sub(part_x, y, out=buffer[: part_x.shape[0]])
        torch.sum(part.abs_(), dim=2, out=l1[start : start + step])
    return l1
