"""The loop all engines share: over the tiles of two blocks, D of a pair computed once for both its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.result import Neighbors
from dm2at_ray.neighbors.topk import RunningTopK

TILE = 1024


@dataclass(frozen=True, eq=False)
class Tile:
    """At most TILE consecutive rows of a block.

    Attributes:
        rows: where they stand in the block.
        features: (n, D) float32.
        radius: (n,) float32 an engine's own limit for each row's candidates, where it has one.
    """

    rows: slice
    features: Tensor
    radius: Tensor | None = None


class Engine(Protocol):
    """Cuts blocks into tiles and names the pairs of two tiles that are worth measuring under D."""

    def tiles(self, block: Block) -> list[Tile]:
        """Cut a block into tiles."""

    def candidates(self, x: Tile, y: Tile, worst_x: Tensor, worst_y: Tensor) -> Tensor:
        """Return (N, M) bool: which pairs to measure, given each row's k-th distance so far.

        Where `x is y` only the part above the diagonal is looked at.
        """


def search_tiles(a: Block, b: Block, k: int, engine: Engine, metric: Metric) -> tuple[Neighbors, Neighbors]:
    """Find the k nearest of each row of `a` among `b` and the other way round, each pair measured once.

    Memory beside the two blocks: O(TILE^2 + TILE * D) for a tile, and 8 k bytes for a row.
    """
    same = a is b
    device = a.features.device
    best_a = RunningTopK(len(a), k, device)
    best_b = best_a if same else RunningTopK(len(b), k, device)
    tiles_a = engine.tiles(a)
    tiles_b = tiles_a if same else engine.tiles(b)
    for number, x in enumerate(tiles_a):
        for y in tiles_b[number:] if same else tiles_b:
            mask = engine.candidates(x, y, best_a.worst(x.rows), best_b.worst(y.rows))
            if x is y:
                mask.triu_(diagonal=1)
            i, j = mask.nonzero(as_tuple=True)
            d = metric.of_pairs(x.features, i, y.features, j)
            i, j = i + x.rows.start, j + y.rows.start
            best_a.offer(i, j, d)
            best_b.offer(j, i, d)
    return best_a.result(b.sample_ids), best_b.result(a.sample_ids)
