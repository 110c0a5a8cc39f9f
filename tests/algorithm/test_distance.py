import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from dm2at_ray.algorithm.distance import distance, pairwise_distance


def scipy_distance(x: torch.Tensor, y: torch.Tensor, l1_weight: float, l2_weight: float) -> np.ndarray:
    x64, y64 = x.double().numpy(), y.double().numpy()
    return l1_weight * cdist(x64, y64, "cityblock") + l2_weight * cdist(x64, y64, "euclidean")


def test_distance__by_hand() -> None:
    x, y = torch.tensor([0.0, 0.0]), torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]])

    assert distance(x, y).tolist() == [7 + 5, 2 + 2, 0]
    assert distance(x, y, l1_weight=2.0, l2_weight=0.5).tolist() == [14 + 2.5, 4 + 1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.25, 3.0), (0.0, 1.0), (1.0, 0.0)])
def test_distance__agrees_with_scipy(dtype: torch.dtype, weights: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 512, generator=generator).to(dtype) for n in (7, 5))
    expected = scipy_distance(x, y, *weights)

    pairwise = pairwise_distance(x, y, *weights)
    broadcast = distance(x[:, None], y[None], *weights)

    # Sums in float16 would be wrong in the third digit already.
    assert pairwise.dtype == broadcast.dtype == torch.float32
    np.testing.assert_allclose(pairwise, expected, rtol=2e-6)
    np.testing.assert_allclose(broadcast, expected, rtol=2e-6)


def test_distance__float16_sums_may_pass_the_float16_range() -> None:
    x = torch.full((1, 4), 60_000.0, dtype=torch.float16)

    assert distance(x, -x).item() == scipy_distance(x, -x, 1, 1).item()


def test_pairwise_distance__close_rows_far_from_the_origin() -> None:
    # ‖x‖² − 2 x·y + ‖y‖² in float32 has no digits left here.
    x = torch.full((1, 64), 1000.0)
    y = x + 2.0**-10

    assert pairwise_distance(x, y).item() == (64 + 8) * 2.0**-10


def test_pairwise_distance__an_entry_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(n, 96, generator=generator) for n in (40, 50))
    together = pairwise_distance(x, y)

    for row, column in ((0, 0), (17, 31), (39, 49)):
        alone = pairwise_distance(x[row : row + 1], y[column : column + 1])
        assert together[row, column] == alone.item()


# Values of float16, as features travel: their squares do not underflow in float32.
features = arrays(np.float32, (2, 16), elements=st.floats(-1e4, 1e4, width=16))


@given(features)
@settings(deadline=None)
def test_distance__lies_between_its_l2_bounds(pair: np.ndarray) -> None:
    x, y = torch.from_numpy(pair)
    l2 = np.linalg.norm(pair[0].astype(np.float64) - pair[1])

    assert 2 * l2 * (1 - 1e-6) <= distance(x, y).item() <= (1 + 4) * l2 * (1 + 1e-6)


@given(features)
@settings(deadline=None)
def test_distance__is_symmetric(pair: np.ndarray) -> None:
    x, y = torch.from_numpy(pair)

    assert distance(x, y) == distance(y, x)
    assert pairwise_distance(x[None], y[None]) == pairwise_distance(y[None], x[None])
