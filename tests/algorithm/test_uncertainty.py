import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from dm2at_ray.algorithm.uncertainty import (
    AGGREGATES,
    MEASURES,
    entropy,
    least_confidence,
    margin,
    uncertainty,
)


def test_measures__by_hand() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.4, 0.4, 0.2]], dtype=torch.float64)

    assert entropy(probabilities).tolist() == pytest.approx([1.5 * np.log(2), 0.0, 1.0549201679861442])
    assert least_confidence(probabilities).tolist() == pytest.approx([0.5, 0.0, 0.6])
    assert margin(probabilities).tolist() == pytest.approx([0.75, 0.0, 1.0])


logits = arrays(
    np.float32,
    array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6),
    elements=st.floats(-50, 50, width=32),
)


@given(logits)
@settings(deadline=None)
def test_uncertainty__agrees_with_scipy(logits: np.ndarray) -> None:
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    ordered = np.sort(probabilities, axis=-1)
    expected = {
        "entropy": scipy_entropy(probabilities, axis=-1),
        "least_confidence": 1 - ordered[..., -1],
        "margin": 1 - ordered[..., -1] + ordered[..., -2],
    }

    for measure, per_mixture in expected.items():
        for aggregate, reduce in (("mean", np.mean), ("max", np.max)):
            actual = uncertainty(torch.from_numpy(logits), measure, aggregate)
            np.testing.assert_allclose(actual, reduce(per_mixture, axis=1), atol=1e-5)
    actual = uncertainty(torch.from_numpy(logits), "entropy", "mean_prediction")
    np.testing.assert_allclose(actual, scipy_entropy(probabilities.mean(axis=1), axis=-1), atol=1e-5)


def test_uncertainty__certain_but_contradicting_mixtures() -> None:
    # Each mixture is certain, of another class: only their mean prediction is uncertain.
    logits = torch.tensor([[[200.0, 0.0], [0.0, 200.0]]])

    assert uncertainty(logits, "entropy", "mean").item() == 0
    assert uncertainty(logits, "entropy", "max").item() == 0
    assert uncertainty(logits, "entropy", "mean_prediction").item() == pytest.approx(np.log(2))


def test_uncertainty__infinite_logits() -> None:
    logits = torch.tensor([[[0.0, 0.0, -torch.inf]]])

    assert uncertainty(logits, "entropy", "mean").item() == pytest.approx(np.log(2))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_uncertainty__is_float32_and_highest_for_equal_probabilities(measure: str, aggregate: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, 4, generator=generator)
    logits[11] = 0

    scores = uncertainty(logits.bfloat16(), measure, aggregate)

    assert (scores.shape, scores.dtype) == ((20,), torch.float32)
    assert scores.argmax() == 11


def test_uncertainty__unknown_names_and_no_mixtures() -> None:
    logits = torch.zeros(1, 1, 2)
    with pytest.raises(ValueError, match="unknown measure 'gini'"):
        uncertainty(logits, "gini", "mean")
    with pytest.raises(ValueError, match="unknown aggregate 'median'"):
        uncertainty(logits, "entropy", "median")
    with pytest.raises(ValueError, match="without any mixture"):
        uncertainty(torch.zeros(1, 0, 2), "entropy", "max")
