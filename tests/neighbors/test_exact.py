from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors import exact
from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.metric import Metric


@pytest.mark.parametrize("cache_bytes", [1, 5000, 1 << 21])
def test_pairwise_l1__is_scipys_cityblock(monkeypatch, cache_bytes):
    monkeypatch.setattr(exact, "CACHE_BYTES", cache_bytes)
    x, y = torch.randn(61, 17, generator=torch.Generator().manual_seed(0)).split([20, 41])
    np.testing.assert_allclose(exact.pairwise_l1(x, y), cdist(x.double(), y.double(), "cityblock"), rtol=1e-6)


def test_candidates__are_few_and_miss_no_neighbour(digits_features, reference):
    x = digits_features[:1000]
    d = reference(x)
    kth = np.sort(d, axis=1)[:, 9]
    engine = exact.Exact(10, Metric())
    (tile,) = engine.tiles(Block.make(np.arange(1000), x))
    mask = engine.candidates(tile, tile, torch.tensor(kth, dtype=torch.float32), torch.tensor(kth)).numpy()
    assert mask[d <= kth[:, None]].all()
    assert mask.sum(axis=1).mean() < 40
