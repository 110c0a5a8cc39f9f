from __future__ import annotations

import numpy as np
import pytest
import torch

from dm2at_ray.errors import ConfigError, PoolError
from dm2at_ray.neighbors.block import Block


def test_make__casts_half_precision():
    block = Block.make(np.array([3, 8]), np.array([[1, 2], [3, 4]], dtype=np.float16))
    assert block.features.dtype == torch.float32
    assert block.features.tolist() == [[1, 2], [3, 4]]
    assert block.sample_ids.tolist() == [3, 8]


def test_make__l2_normalizes_rows_and_leaves_zero_rows():
    block = Block.make(np.array([0, 1]), np.array([[3.0, 4.0], [0.0, 0.0]]), normalize="l2")
    assert block.features.tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_make__empty():
    assert len(Block.make(np.zeros(0, np.int64), np.zeros((0, 3), np.float32))) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_make__names_the_first_broken_samples(bad):
    features = np.zeros((10, 2), np.float16)
    features[2:9, 1] = bad
    with pytest.raises(PoolError, match=r"sample ids 102, 103, 104, 105, 106 and 2 more are NaN or infinite"):
        Block.make(np.arange(100, 110), features)


def test_make__refuses_unknown_normalization():
    with pytest.raises(ConfigError, match="normalize='l1' is unknown; use one of: none, l2"):
        Block.make(np.array([0]), np.zeros((1, 2)), normalize="l1")


@pytest.mark.parametrize("ids", [[1, 1], [2, 1]])
def test_make__refuses_ids_that_do_not_ascend(ids):
    with pytest.raises(ValueError, match="ascending"):
        Block.make(np.array(ids), np.zeros((2, 2)))


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 0)])
def test_make__refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="are not"):
        Block.make(np.array([0, 1]), np.zeros(shape))
