from __future__ import annotations

import numpy as np
import pytest
import torch
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


def test_of_pairs__none():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert Metric().of_pairs(torch.zeros(2, 3), nothing, torch.zeros(2, 3), nothing).shape == (0,)


@pytest.mark.parametrize(
    ("weights", "message"),
    [((-1.0, 1.0), "l1_weight=-1.0"), ((1.0, float("nan")), "l2_weight=nan"), ((0.0, 0.0), "both 0")],
)
def test_metric__refuses_weights_that_make_no_distance(weights, message):
    with pytest.raises(ConfigError, match=message):
        Metric(*weights)
