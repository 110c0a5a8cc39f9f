from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler, normalize

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors.normalizer import Normalizer


def features(scale: float) -> np.ndarray:
    """Gaussian columns of different spreads, some constant, some off zero, and a row of zeros."""
    x = np.random.default_rng(0).standard_normal((200, 6)) * [1, 10, 0.1, 1, 0, 0] + [0, 0, 0, 20, 0.1, 0]
    x[7] = 0
    x[:, 4] = 0.1
    return (scale * x).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4, 1e15])
def test_call__l2_is_scikit_learns(scale):
    x = features(scale)
    found = Normalizer.fit("l2", torch.from_numpy(x))(torch.from_numpy(x))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, normalize(x.astype(np.float64)), rtol=1e-6)


def test_call__l2_leaves_rows_of_zeros():
    assert Normalizer("l2")(torch.tensor([[0.0, 0.0], [0.0, -2.0]])).tolist() == [[0, 0], [0, -1]]


@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-22, 1e-19])
def test_call__l2_of_features_whose_squares_vanish(scale):
    x = features(scale)
    wide = x.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    found = Normalizer("l2")(torch.from_numpy(x))
    np.testing.assert_allclose(found, wide / np.where(norms > 0, norms, 1), rtol=1e-5)


def test_call__l2_of_tiny_rows_beside_large_ones():
    x = torch.tensor([[3e-30, 4e-30], [3e15, 4e15], [0.0, 1e-42]])
    np.testing.assert_allclose(Normalizer("l2")(x), [[0.6, 0.8], [0.6, 0.8], [0, 1]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e4, 1e15])
def test_call__standardize_is_scikit_learns(scale):
    x = features(scale)
    found = Normalizer.fit("standardize", torch.from_numpy(x))(torch.from_numpy(x))
    assert found.dtype == torch.float32
    expected = StandardScaler().fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_call__standardize_takes_constant_dimensions_to_zero():
    # The mean of 3 times 0.1 in float64 is off by a rounding, which is not to be blown up.
    x = torch.full((3, 1), 0.1).repeat(1, 2)
    assert Normalizer.fit("standardize", x)(x).abs().max() < 1e-6
    assert Normalizer.fit("standardize", x)(x + 1).sub(1).abs().max() < 1e-6


def test_call__standardize_takes_a_spread_that_float32_does_not_hold_for_none():
    x = torch.zeros(65536, 1)
    x[0] = 1e-44
    assert Normalizer.fit("standardize", x)(x).abs().max() < 1e-38


def test_call__standardize_is_by_the_sample_not_by_what_it_is_given():
    sample = torch.tensor([[0.0], [2.0]])
    assert Normalizer.fit("standardize", sample)(torch.tensor([[5.0], [1.0]])).tolist() == [[4], [0]]


@pytest.mark.parametrize("kind", ["none", "l2", "standardize"])
def test_call__takes_each_row_by_itself_and_leaves_the_input(kind):
    x = torch.from_numpy(features(1.0))
    before, normalizer = x.clone(), Normalizer.fit(kind, x)
    whole = normalizer(x)
    assert torch.equal(torch.cat([normalizer(x[:33]), normalizer(x[33:])]), whole)
    assert torch.equal(x, before)
    assert torch.equal(whole, x) == (kind == "none")


def test_fit__refuses_unknown_kinds():
    with pytest.raises(ConfigError, match="normalize='l1' is unknown; use one of: none, l2, standardize"):
        Normalizer.fit("l1", torch.zeros(1, 1))
