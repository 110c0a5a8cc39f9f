from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors.metric import PAIRS_CPU, Metric


@pytest.mark.parametrize("d", [1, 7, 64, 513])
def test_of_pairs__a_pair_is_the_same_bits_in_any_company(d):
    x, y = torch.rand(50, d, generator=torch.Generator().manual_seed(d)).split(25)
    i, j = torch.randint(0, 25, (2, PAIRS_CPU + 77), generator=torch.Generator().manual_seed(1))
    metric = Metric()
    together = metric.of_pairs(x, i, y, j)
    assert torch.equal(metric.of_pairs(y, j, x, i), together)
    for p in (0, 5, PAIRS_CPU, PAIRS_CPU + 76):
        assert metric.of_pairs(x[i[p]][None], torch.tensor([0]), y, j[p : p + 1]) == together[p]
    expected = cdist(x.double(), y.double(), "cityblock") + cdist(x.double(), y.double())
    np.testing.assert_allclose(together, expected[i, j], rtol=3e-6)


def test_of_pairs__weighted_by_hand():
    x, y, one = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, -4.0]]), torch.tensor([0])
    assert Metric(0.5, 3.0).of_pairs(x, one, y, one).tolist() == [0.5 * 7 + 3 * 5]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (1e-12, 1e-12), (1e12, 1e-12)])
@pytest.mark.parametrize("scale", [2.0**-120, 1e-30, 1e-21, 1e-19, 1e-17, 1e-13])
def test_of_pairs__of_features_whose_squares_vanish(weights, scale):
    x = np.random.default_rng(0).standard_normal((30, 9)).astype(np.float32)
    x[10:] *= np.float32(scale)
    i, j = torch.from_numpy(np.stack(np.triu_indices(30)))
    x64 = x.astype(np.float64)
    expected = weights[0] * cdist(x64, x64, "cityblock") + weights[1] * cdist(x64, x64)
    found = Metric(*weights).of_pairs(torch.from_numpy(x), i, torch.from_numpy(x), j)
    np.testing.assert_allclose(found, expected[i, j], rtol=1e-6, atol=2.0**-147)


def test_of_pairs__none():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert Metric().of_pairs(torch.zeros(2, 3), nothing, torch.zeros(2, 3), nothing).shape == (0,)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dims=st.integers(1, 300),
    weights=st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)]),
    scale=st.sampled_from([1e-25, 1e-19, 1e-4, 1.0, 1e4]),
)
def test_bounds__l1_is_never_farther_than_they_allow(seed, dims, weights, scale):
    """What the certified filter is built on: the measured D, corrected, over the least D per L1."""
    random = np.random.default_rng(seed)
    x = (scale * random.standard_normal((20, dims))).astype(np.float32)
    x[1] = x[0]
    # |v|_2 = |v|_1 / sqrt(d), the tight case.
    x[2] = x[3] + np.float32(scale)
    metric = Metric(*weights)
    i, j = torch.from_numpy(np.stack(np.triu_indices(20)))
    measured = metric.of_pairs(torch.from_numpy(x), i, torch.from_numpy(x), j).double().numpy()
    l1 = cdist(x.astype(np.float64), x.astype(np.float64), "cityblock")[i, j]
    reach = (measured * metric.rounding(dims) + metric.underflow(dims)) / metric.least_per_l1(dims)
    assert (l1 <= reach).all()


def test_least_per_l1__is_met_by_equal_differences():
    assert Metric(1.0, 2.0).least_per_l1(16) == 1.0 + 2.0 / 4
    equal = np.full(16, 0.5)
    assert Metric(1.0, 2.0).least_per_l1(16) * np.abs(equal).sum() == pytest.approx(
        np.abs(equal).sum() + 2 * np.linalg.norm(equal)
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((-1.0, 1.0), "l1_weight=-1.0"),
        ((1.0, float("nan")), "l2_weight=nan"),
        ((0.0, 0.0), "both 0"),
        # As float32 these are infinite, and zero.
        ((1e39, 1.0), r"l1_weight=1e\+39 must be 0 or from 1e-12 to 1e\+12"),
        ((0.0, 1e-46), "l2_weight=1e-46 must be 0 or from 1e-12"),
    ],
)
def test_metric__refuses_weights_that_make_no_distance(weights, message):
    with pytest.raises(ConfigError, match=message):
        Metric(*weights)
