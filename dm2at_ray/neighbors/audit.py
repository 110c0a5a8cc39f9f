"""The recall of a search, measured on random queries that are searched by no engine at all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from dm2at_ray.neighbors import backend
from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.result import MISSING_ID, Neighbors, merge

ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Recall:
    """Share of the true k nearest neighbours that were found, with its 95 % confidence interval.

    The interval is Wilson's for as many trials as there are queries: a query's neighbours are found or
    missed together.
    """

    recall: float
    low: float
    high: float
    queries: int


def true_neighbors(queries: Block, blocks: Iterable[Block], k: int, metric: Metric) -> Neighbors:
    """Find the k nearest of the queries by measuring D to every row.

    Args:
        queries: Q rows of the pool.
        blocks: The pool, normalized as the queries are; one block is held at a time.
        k: Neighbours of each.
        metric: D.

    Returns:
        Neighbors of the queries. Among equal distances any of the ids.
    """
    missing = torch.full((len(queries), k), MISSING_ID, dtype=torch.int64, device=queries.features.device)
    best = Neighbors(missing, torch.full_like(missing, torch.inf, dtype=torch.float32))
    for block in blocks:
        for start in range(0, len(block), ROWS_AT_ONCE):
            ids = block.sample_ids[start : start + ROWS_AT_ONCE]
            distances = backend.measure(
                queries.features, block.features[start : start + ROWS_AT_ONCE], metric
            )
            distances.masked_fill_(queries.sample_ids[:, None] == ids, torch.inf)
            nearest = distances.topk(min(k, len(ids)), dim=1, largest=False)
            found = torch.where(torch.isinf(nearest.values), MISSING_ID, ids[nearest.indices])
            best = merge([best, Neighbors(found, nearest.values)], k)
    return best


def recall_of(found: Neighbors, truth: Neighbors) -> Recall:
    """Compare what a search has found for some queries with the truth, row by row.

    A neighbour no farther than the true k-th counts: among equals it does not matter which is found.
    """
    wanted = (truth.ids != MISSING_ID).sum(dim=1)
    kth = truth.distances.masked_fill(truth.ids == MISSING_ID, -1).amax(dim=1, keepdim=True)
    # Another order of summation moves a distance by less than this.
    met = (found.distances <= kth * (1 + 1e-5)) & (found.ids != MISSING_ID)
    # A query that has no neighbour misses none.
    shares = torch.where(wanted > 0, met.sum(dim=1).minimum(wanted) / wanted.clamp(min=1), 1.0)
    return _with_interval(float(shares.to(torch.float64).mean()) if len(shares) else 1.0, len(shares))


def _with_interval(share: float, trials: int) -> Recall:
    if trials == 0:
        return Recall(1.0, 0.0, 1.0, 0)
    z = 1.959963984540054
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    middle, scale = share + z * z / (2 * trials), 1 + z * z / trials
    return Recall(share, max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale), trials)
