"""The GPU backend of the neighbour search: pairs of row ranges of two encoded blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors import portable
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.gpu.filters import CertifiedByCodes, CertifiedByHalves, Filter, Shortlist
from dm2at_ray.neighbors.gpu.gemm import MAX_DIMENSIONS
from dm2at_ray.neighbors.gpu.pairs import pair_distances
from dm2at_ray.neighbors.gpu.survivors import Survivors
from dm2at_ray.neighbors.gpu.tiles import TileList
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.topk import RunningTopK

TOO_COARSE = 1 / 200
"""Share of the pairs measured for nothing from which halves are the faster filter: measuring one costs as
much as passing some 150 through the difference of the two kernels."""

NEAR = 1.02
"""What halves leave is about within this factor of a row's threshold."""

GROWTH = 4
"""A launch is at most so many times as long as the one before, and is so many times shorter when redone."""


@dataclass(frozen=True)
class Sizes:
    """How much is held at once.

    Attributes:
        capacity: pairs the buffer of survivors has room for; taken up to a whole tile's.
        flush: survivors that are worth measuring, which tightens the thresholds of the launches to come.
        tiles: tiles of one launch at most: 20 to 40 ms of work on an H100 at 512 dimensions.
    """

    capacity: int = 1 << 23
    flush: int = 1 << 21
    tiles: int = 1 << 19


def search_ranges(
    x: Encoded,
    y: Encoded,
    pairs: np.ndarray,
    *,
    k: int,
    metric: Metric,
    step: float,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """Find each row's k nearest by (D, order) among the listed pairs of rows.

    With a radius on both blocks the shortlist filter decides which pairs are measured: those whose codes
    are within either row's radius. Without, the certified filter does: those that may be as near as either
    row's limit and k-th distance so far; a row keeps what is within its limit. It begins by codes, and goes
    on by halves if these leave too many.

    Rows of more than MAX_DIMENSIONS dimensions are left to the portable backend.

    Memory beside the blocks: their codes once more (halves are twice as large), 8 k bytes a row for the
    result, 0.1 GiB of tiles and survivors, and up to 100 bytes a survivor while these are measured and
    merged: below 1 GiB altogether.

    Args:
        x: N rows on a CUDA device.
        y: M rows on the same device, or x itself.
        pairs: (P, 4) int64 row ranges x_begin, x_end, y_begin, y_end. Where x is y, a pair of equal ranges
            means what is above its diagonal; otherwise ranges of a pair are disjoint. No unordered pair of
            rows may stand in the list twice.
        k: neighbours to find, at least 1.
        metric: the weights of D.
        step: what one code is worth (`Quantizer`).
        threads: not used on a GPU.

    Returns:
        Packed keys (N, k) and (M, k) int64, ascending: float32 bits of D, then the neighbour's `order` in the
        other block; missing ones as in `RunningTopK`. The same tensor twice where x is y.
    """
    if x.codes.shape[1] > MAX_DIMENSIONS:
        return portable.search_ranges(x, y, pairs, k=k, metric=metric, step=step, threads=threads)
    with torch.cuda.device_of(x.features):
        return RangeSearch(x, y, k, metric, step).run(pairs)


class RangeSearch:
    """The state of one search: thresholds, survivors not measured yet, and each row's k nearest so far.

    Attributes:
        measured: pairs measured under D so far.
        coarse: whether 8 bits were found too coarse, and halves have taken over.
        redone: launches that overflowed the buffer and were done again in smaller pieces.
    """

    def __init__(
        self,
        x: Encoded,
        y: Encoded,
        k: int,
        metric: Metric,
        step: float,
        sizes: Sizes | None = None,
    ) -> None:
        assert (x.radius is None) == (y.radius is None)
        self.measured = 0
        self.redone = 0
        self.coarse = False
        self._x, self._y, self._metric = x, y, metric
        self._sizes = sizes or Sizes()
        self._device = x.features.device
        self._best_x = RunningTopK(len(x), k, self._device)
        self._best_y = self._best_x if x is y else RunningTopK(len(y), k, self._device)
        self._filter: Filter = CertifiedByCodes(x, y, metric, step) if x.radius is None else Shortlist(x, y)
        self._passed = 0

    def run(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """Search all pairs of ranges; see `search_ranges`."""
        shape = self._filter.tile
        tile = shape[0] * shape[1]
        # One tile's pairs always fit, so whatever overflows can be done in smaller pieces.
        survivors = Survivors.empty(max(self._sizes.capacity, tile), self._device)
        tiles = TileList.cut(pairs, shape, same=self._x is self._y, device=self._device)
        start, held, length = 0, 0, survivors.capacity // tile
        while start < tiles.total:
            count = min(length, tiles.total - start)
            survivors.counter.fill_(held)
            self._filter.launch(tiles.rows(start, count), survivors)
            found = survivors.found()
            if found > survivors.capacity:
                self.redone += 1
                self._measure(survivors, held)
                held, length = 0, max(1, count // GROWTH)
                continue
            start += count
            self._passed += count * tile
            per_tile, held = (found - held) / count, found
            if held >= self._sizes.flush:
                self._measure(survivors, held)
                held = 0
            length = self._next_length(length, per_tile, survivors.capacity - held)
        self._measure(survivors, held)
        return self._best_x.keys, self._best_y.keys

    def _next_length(self, length: int, per_tile: float, room: int) -> int:
        """Return how many tiles to launch next, for the survivors to fill about half the room left."""
        fitting = int(room / 2 / per_tile) if per_tile > 0 else self._sizes.tiles
        return max(1, min(fitting, GROWTH * length, self._sizes.tiles))

    def _measure(self, survivors: Survivors, count: int) -> None:
        """Measure the first `count` survivors, offer each to both its rows, and tighten the filter."""
        if count == 0:
            return
        self.measured += count
        x, y = self._x, self._y
        i, j = survivors.pairs(count)
        distances = pair_distances(x.features, i, y.features, j, self._metric)
        # By what was known when these pairs were let through, which the offers below change.
        too_coarse = isinstance(self._filter, CertifiedByCodes) and self._is_too_coarse(i, j, distances)
        self._offer(self._best_x, i, y.order, j, distances, of_x=True)
        self._offer(self._best_y, j, x.order, i, distances, of_x=False)
        if too_coarse:
            self.coarse = True
            self._filter = CertifiedByHalves(x, y, self._metric)
        self._passed = 0
        everything = slice(None)
        self._filter.tighten(self._best_x.worst(everything), self._best_y.worst(everything))

    def _is_too_coarse(self, i: Tensor, j: Tensor, distances: Tensor) -> bool:
        """Tell whether halves would be faster, from P pairs that codes have let through."""
        everything = slice(None)
        reach_x = torch.minimum(self._best_x.worst(everything), self._x.limit).index_select(0, i)
        reach_y = torch.minimum(self._best_y.worst(everything), self._y.limit).index_select(0, j)
        far = distances > torch.maximum(reach_x, reach_y).mul_(NEAR)
        return int(far.sum()) > TOO_COARSE * self._passed

    def _offer(
        self, best: RunningTopK, rows: Tensor, order: Tensor, found: Tensor, distances: Tensor, *, of_x: bool
    ) -> None:
        keep = self._filter.counts(distances, rows, of_x=of_x)
        if keep is not None:
            rows, found, distances = rows[keep], found[keep], distances[keep]
        best.offer(rows.to(torch.int64), order.index_select(0, found), distances)
