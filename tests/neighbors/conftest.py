"""Features to search in, and the float64 reference every engine is held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_features() -> np.ndarray:
    """(1797, 64) float32: the digits through a random convolution, ReLU and average pooling."""
    images = torch.from_numpy(load_digits().images.astype(np.float32) / 16)[:, None]
    weight = torch.randn(16, 1, 3, 3, generator=torch.Generator().manual_seed(0)) / 3
    maps = torch.relu(torch.conv2d(images - images.mean(), weight, padding=1))
    return torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1).numpy()


@pytest.fixture(scope="session")
def reference() -> Callable[..., np.ndarray]:
    """Return a function giving D of all pairs in float64 by SciPy, +inf on the diagonal."""

    def all_pairs(features: np.ndarray, l1_weight: float = 1.0, l2_weight: float = 1.0) -> np.ndarray:
        x = features.astype(np.float64)
        d = l1_weight * cdist(x, x, "cityblock") + l2_weight * cdist(x, x, "euclidean")
        np.fill_diagonal(d, np.inf)
        return d

    return all_pairs
