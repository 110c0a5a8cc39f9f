"""Blocks of rows as the backend takes them, and what it must return for them in float64."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.metric import Metric
from dm2at_ray.neighbors.quantizer import Quantizer

MISSING = (0x7F800000 << 32) | 0x7FFFFFFF
"""Key of a missing neighbour: +inf at the last order."""

Found = list[list[tuple[float, int]]]
"""Each row's neighbours as (D, order), nearest first."""


def encode(x: Tensor, quantizer: Quantizer, limit: Tensor | None = None, rank: int | None = None) -> Encoded:
    """Encode rows (N, D), in descending order of their ids: a row's order is not its number.

    With `rank`, each row's radius is the squared L2 of codes to its rank-th nearest other row.
    """
    n = len(x)
    codes, residuals = quantizer.encode(x)
    order = torch.arange(n, device=x.device).flip(0)
    radius = None if rank is None else squared_l2(codes, codes).sort(dim=1).values[:, rank]
    nowhere = torch.full((n,), torch.inf, device=x.device)
    return Encoded(100 + order, x, codes, residuals, order, nowhere if limit is None else limit, radius)


def squared_l2(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) int64 of codes."""
    return (x[:, None].to(torch.int64) - y.to(torch.int64)).square().sum(dim=2)


def true_distances(x: Encoded, y: Encoded, metric: Metric) -> np.ndarray:
    """D of all pairs (N, M) float64, by SciPy; NaN for a row and itself."""
    a, b = (block.features.cpu().numpy().astype(np.float64) for block in (x, y))
    d = metric.l1_weight * cdist(a, b, "cityblock") + metric.l2_weight * cdist(a, b, "euclidean")
    if x is y:
        np.fill_diagonal(d, np.nan)
    return d


def nearest(d: np.ndarray, order: Tensor, k: int) -> Found:
    """Each row's k nearest by (D, order) of distances (N, M) to rows in this order; NaN may not be found."""
    ranks = order.tolist()
    rows = (zip(row.tolist(), ranks, strict=True) for row in d)
    return [sorted(pair for pair in row if pair[0] == pair[0])[:k] for row in rows]


def read(keys: Tensor) -> Found:
    """Take packed keys (N, k) apart; missing neighbours are left out."""
    keys = keys.cpu()
    assert (keys[:, 1:] >= keys[:, :-1]).all()
    distances = (keys >> 32).to(torch.int32).view(torch.float32).tolist()
    found = []
    for row, near in zip(keys.tolist(), distances, strict=True):
        found.append([(d, key & 0x7FFFFFFF) for d, key in zip(near, row, strict=True) if key != MISSING])
    return found


def assert_same(got: Tensor, want: Found) -> None:
    """Assert that keys name a reference's neighbours, their distances to within float32."""
    found = read(got)
    assert [[order for _, order in row] for row in found] == [[order for _, order in row] for row in want]
    distances = [[d for row in rows for d, _ in row] for rows in (found, want)]
    np.testing.assert_allclose(*distances, rtol=1e-5, atol=1e-12)
