"""The shortlist engine: candidates by an L2 matrix product, measured under D like the exact engine's."""

from __future__ import annotations

import torch
from torch import Tensor

from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.tiles import TILE, Tile

MIN_RANK = 32


class Shortlist:
    """Measures the pairs within either row's radius: the L2 distance to its m-th nearest in its own tile.

    m = max(4 k, 32). A row's own tile is part of the pool, so its m nearest by L2 in the whole pool always
    lie within its radius, in whatever order the pool stands; in a pool of N rows in random order about
    m * N / TILE do. Recall at k = 10 on 20,000 x 64 features of a convolution: 1.0 in random order, 0.9993
    in the worst order tried (by class, then along the first principal component; 0.9916 with m = 2 k).
    A row with fewer than m others in its tile has every row as a candidate.

    Tiles are the rows with the same sample id // TILE, and a pair of tiles is always multiplied the same way
    round: candidates do not depend on how the pool is cut into blocks, as long as the caller cuts it at
    multiples of TILE of the sample id.
    """

    def __init__(self, k: int) -> None:
        self.rank = max(4 * k, MIN_RANK)

    def tiles(self, block: Block) -> list[Tile]:
        """Cut where sample id // TILE changes, and find each row's radius."""
        group = torch.div(block.sample_ids, TILE, rounding_mode="floor")
        tiles, start = [], 0
        for count in group.unique_consecutive(return_counts=True)[1].tolist():
            rows = slice(start, start + count)
            features = block.features[rows]
            tiles.append(Tile(rows, features, self._radius(features)))
            start += count
        return tiles

    def candidates(self, x: Tile, y: Tile, worst_x: Tensor, worst_y: Tensor) -> Tensor:
        """Return the pairs within the radius of either row, whatever has been found so far."""
        assert x.radius is not None
        assert y.radius is not None
        return pairwise_squared_l2(x.features, y.features) <= torch.maximum(x.radius[:, None], y.radius)

    def _radius(self, x: Tensor) -> Tensor:
        """Return (N,) the squared L2 distance to the m-th nearest other row, +inf where there are fewer."""
        n = x.shape[0]
        if n <= self.rank:
            return x.new_full((n,), torch.inf)
        squared = pairwise_squared_l2(x, x).fill_diagonal_(torch.inf)
        return squared.topk(self.rank, dim=1, largest=False, sorted=False).values.amax(dim=1)


def pairwise_squared_l2(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|_2^2 as (N, M) float32 by one matrix product.

    Centred on the mean of `x`, which keeps the cancellation small.
    """
    centre = x.mean(dim=0)
    x, y = x - centre, y - centre
    # (N, M) is written once: |y|^2 - 2 x.y, then |x|^2 in place.
    squared = torch.addmm(y.square().sum(dim=1), x, y.T, alpha=-2.0)
    return squared.add_(x.square().sum(dim=1, keepdim=True))
