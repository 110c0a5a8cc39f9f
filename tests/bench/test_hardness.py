"""How hard a pool is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dm2at_ray.bench.hardness import Hardness
from dm2at_ray.bench.truth import Truth

CPU = torch.device("cpu")


def measure(features: np.ndarray, k: int, m: int) -> Hardness:
    queries = np.arange(min(200, len(features)))
    return Hardness.measure(features, Truth.find(features, queries, m, CPU), k, seed=0)


@pytest.mark.parametrize("dimension", [2, 5])
def test_lid__is_the_dimension_of_the_cube(dimension: int) -> None:
    x = np.random.default_rng(0).random((5000, dimension)).astype(np.float32)
    assert measure(x, 10, 100).lid == pytest.approx(dimension, rel=0.15)


def test_kth_to_median__of_random_numbers_nears_one_and_of_duplicates_none() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((500, 256)).astype(np.float32)
    assert 0.85 < (measure(noise, 10, 100).kth_to_median or 0) < 1
    crops = np.repeat(noise[:25], 20, axis=0) + 1e-3 * rng.standard_normal((500, 256)).astype(np.float32)
    assert (measure(crops, 10, 100).kth_to_median or 1) < 0.01


def test_zero_share__counts_zeros() -> None:
    x = np.random.default_rng(0).random((100, 8)).astype(np.float32)
    x[:, :2] = 0
    assert measure(x, 1, 10).zero_share == 0.25


def test_measure__of_equal_rows_has_nothing_to_say() -> None:
    assert measure(np.ones((50, 3), dtype=np.float32), 5, 10) == Hardness(None, None, 0)
