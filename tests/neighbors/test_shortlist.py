from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from dm2at_ray.neighbors.block import Block
from dm2at_ray.neighbors.search import search
from dm2at_ray.neighbors.shortlist import Shortlist, pairwise_squared_l2


def test_pairwise_squared_l2__is_scipys_euclidean():
    x, y = (5 + torch.randn(61, 17, generator=torch.Generator().manual_seed(0))).split([20, 41])
    np.testing.assert_allclose(
        pairwise_squared_l2(x, y), cdist(x.double(), y.double(), "sqeuclidean"), rtol=1e-4
    )


def test_tiles__are_cut_by_sample_id():
    ids = np.array([5, 1023, 1024, 1500, 2047, 9000])
    tiles = Shortlist(1).tiles(Block.make(ids, np.zeros((6, 2))))
    assert [(t.rows.start, t.rows.stop) for t in tiles] == [(0, 2), (2, 5), (5, 6)]


def test_tiles__radius_reaches_the_mth_nearest_of_the_tile():
    tile = Shortlist(9).tiles(Block.make(np.arange(100), np.arange(100.0)[:, None]))[0]
    assert tile.radius is not None
    # m = 36: from 0 up to 36, from 50 up to 18 on either side.
    assert tile.radius[[0, 50]].tolist() == pytest.approx([36.0**2, 18.0**2], rel=1e-5)


def test_tiles__radius_of_a_thin_tile_is_unlimited():
    tile = Shortlist(9).tiles(Block.make(np.arange(36), np.arange(36.0)[:, None]))[0]
    assert tile.radius is not None
    assert torch.isinf(tile.radius).all()


@pytest.mark.parametrize("order", ["random", "along the first feature"])
def test_shortlist__recall_on_real_features(digits_features, reference, order):
    x = digits_features
    rows = np.random.default_rng(0).permutation(len(x)) if order == "random" else np.argsort(x[:, 0])
    x = x[rows]
    kth = np.sort(reference(x), axis=1)[:, 9:10]
    _, distances = search(x, 10, engine="shortlist").numpy()
    recall = np.mean(distances <= kth * (1 + 1e-6))
    assert recall >= 0.999


def test_shortlist__distances_are_the_exact_engines_to_the_bit(digits_features):
    ids_a, distances_a = search(digits_features, 5, engine="shortlist").numpy()
    ids_b, distances_b = search(digits_features, 5, engine="exact").numpy()
    same = ids_a == ids_b
    assert same.mean() > 0.999
    np.testing.assert_array_equal(distances_a[same], distances_b[same])
