import numpy as np
import pytest
import torch
from scipy import stats

from dm2at_ray.algorithm.counter_rng import Stream, uniform
from dm2at_ray.algorithm.mixup import mixing_coefficients, mixup

IDS = np.arange(4000)


@pytest.mark.parametrize(
    ("alpha", "inverse"),
    [
        (0.5, lambda u: np.sin(np.pi * u / 2) ** 2),
        (1.0, lambda u: u),
        (2.0, lambda u: 0.5 - np.sin(np.arcsin(1 - 2 * u) / 3)),
    ],
)
def test_mixing_coefficients__agree_with_closed_inverse_distribution_functions(alpha, inverse) -> None:
    mu = mixing_coefficients(3, 1, IDS, 2, alpha)

    np.testing.assert_allclose(mu, inverse(uniform(3, 1, Stream.MIXUP, IDS, 2)), atol=1e-7)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 8.0])
def test_mixing_coefficients__follow_the_beta_distribution(alpha: float) -> None:
    mu = mixing_coefficients(3, 1, IDS, 3, alpha).double().numpy()

    # Measured from the nearer end, because float32 has few values just below 1.
    beta = stats.beta(alpha, alpha)
    below = beta.cdf(1e-4)
    for half in (mu[mu < 0.5], 1 - mu[mu >= 0.5]):
        inner = half[half > 1e-4]
        assert len(inner) / mu.size == pytest.approx(0.5 - below, abs=0.02)
        assert stats.kstest(inner, lambda m: (beta.cdf(m) - below) / (0.5 - below)).pvalue > 0.01
    assert mu.mean() == pytest.approx(0.5, abs=0.02)
    assert mu.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 8.0, 1e3])
def test_mixing_coefficients__extreme_draws_stay_in_range(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    extremes = np.array([[2.0**-53, 1e-12, 0.5, 1 - 1e-12, 1 - 2.0**-53]])
    monkeypatch.setattr("dm2at_ray.algorithm.mixup.uniform", lambda *args: extremes)

    mu = mixing_coefficients(0, 0, np.array([0]), 5, alpha)[0]

    assert mu.isfinite().all()
    assert ((mu >= 0) & (mu <= 1)).all()
    assert mu[2] == 0.5
    torch.testing.assert_close(mu, 1 - mu.flip(0))


def test_mixing_coefficients__belong_to_sample_and_rank() -> None:
    all_of_them = mixing_coefficients(0, 4, IDS, 6, 0.4)

    assert all_of_them.dtype == torch.float32
    assert torch.equal(mixing_coefficients(0, 4, IDS[[70, 5]], 3, 0.4), all_of_them[[70, 5], :3])
    assert mixing_coefficients(0, 4, IDS, 0, 0.4).shape == (4000, 0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_mixing_coefficients__alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha is"):
        mixing_coefficients(0, 0, IDS, 2, alpha)


def test_mixup__ends_and_middle() -> None:
    x = torch.tensor([[1.0, 2.0], [8.0, 8.0]])
    neighbors = torch.tensor([[[3.0, 4.0], [5.0, 6.0]], [[0.0, 0.0], [4.0, 16.0]]])
    mu = torch.tensor([[1.0, 0.0], [0.5, 0.25]])

    assert mixup(x, neighbors, mu).tolist() == [[[1.0, 2.0], [5.0, 6.0]], [[4.0, 4.0], [5.0, 14.0]]]


def test_mixup__images_agree_with_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x, neighbors = torch.rand(3, 2, 4, 4, generator=generator), torch.rand(3, 5, 2, 4, 4, generator=generator)
    mu = torch.rand(3, 5, generator=generator)

    mixtures = mixup(x, neighbors, mu)

    assert mixtures.shape == (3, 5, 2, 4, 4)
    for row in range(3):
        for rank in range(5):
            share = mu[row, rank].item()
            expected = share * x[row] + (1 - share) * neighbors[row, rank]
            torch.testing.assert_close(mixtures[row, rank], expected)


def test_mixup__float16_features_mix_in_float32() -> None:
    x, neighbors = torch.tensor([[1.0]]).half(), torch.tensor([[[0.0]]]).half()

    assert mixup(x, neighbors, torch.tensor([[1 / 3]])).item() == np.float32(1 / 3)
