from __future__ import annotations

import numpy as np
import pytest
import torch

from dm2at_ray.algorithm.distance import distance
from dm2at_ray.errors import PoolError
from dm2at_ray.neighbors.block import LARGEST, Block
from dm2at_ray.neighbors.normalizer import Normalizer


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_make__casts_to_float32(dtype):
    block = Block.make(np.array([3, 8]), np.array([[1, 2], [3, 4]], dtype=dtype))
    assert block.features.dtype == torch.float32
    assert block.features.tolist() == [[1, 2], [3, 4]]
    assert block.sample_ids.tolist() == [3, 8]
    assert len(block) == 2


def test_make__ids_in_any_order():
    assert Block.make(np.array([5, 2]), np.zeros((2, 1))).sample_ids.tolist() == [5, 2]


def test_make__features_are_contiguous():
    columns = torch.arange(6.0).view(2, 3).T
    block = Block.make(torch.arange(3), columns, Normalizer("none"))
    assert block.features.is_contiguous()
    assert block.features.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_make__normalizes():
    block = Block.make(np.array([0, 1]), np.array([[3.0, 4.0], [0.0, 0.0]]), Normalizer("l2"))
    assert block.features.tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_make__empty():
    assert len(Block.make(np.zeros(0, np.int64), np.zeros((0, 3), np.float32))) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["none", "l2"])
def test_make__names_the_first_broken_samples(bad, kind):
    features = np.zeros((10, 2), np.float16)
    features[2:9, 1] = bad
    with pytest.raises(PoolError, match=r"sample ids 102, 103, 104, 105, 106 and 2 more are NaN or infinite"):
        Block.make(np.arange(100, 110), features, Normalizer(kind))


def test_make__refuses_features_whose_distances_leave_float32():
    Block.make(np.array([6, 7]), np.array([[0.0], [-LARGEST]]))
    for value, named in ((-1.1 * LARGEST, r"1\.1e\+16"), (3e38, r"3\.0e\+38"), (1e39, r"1\.0e\+39")):
        with pytest.raises(PoolError, match=rf"sample ids 7 reach {named}: above 1e\+16.*divide all"):
            Block.make(np.array([6, 7]), np.array([[0.0], [value]]))
    block = Block.make(np.array([6, 7]), np.array([[LARGEST], [-LARGEST]]).repeat(4096, axis=1))
    assert torch.isfinite(distance(*block.features))


def test_make__broken_features_are_named_before_large_ones():
    with pytest.raises(PoolError, match="sample ids 9 are NaN or infinite; check"):
        Block.make(np.array([6, 9]), np.array([[1e30], [np.nan]]))


def test_make__refuses_features_that_normalization_blows_up():
    """A row outside the sample, in a dimension that hardly varies inside it."""
    normalizer = Normalizer.fit("standardize", torch.tensor([[0.0], [1e-10]]))
    with pytest.raises(PoolError, match=r"sample ids 7 reach 2\.0e\+18 after normalize=standardize"):
        Block.make(np.array([6, 7]), np.array([[0.0], [1e8]], np.float32), normalizer)


def test_make__refuses_rows_that_float32_would_lose():
    zero_or_not = np.array([[0.0, 0.0], [1e-60, 1.0], [0.0, 1e-60]])
    with pytest.raises(PoolError, match=r"sample ids 8 are 1\.0e-60 at most.*multiply all features"):
        Block.make(np.array([6, 7, 8]), zero_or_not)
    assert len(Block.make(np.array([6, 7]), zero_or_not[:2])) == 2


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 0)])
def test_make__refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="are not"):
        Block.make(np.array([0, 1]), np.zeros(shape))
