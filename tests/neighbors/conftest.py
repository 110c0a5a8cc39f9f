"""Features to search in, and the references every engine is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from dm2at_ray.neighbors import backend
from dm2at_ray.neighbors.encoded import Encoded
from dm2at_ray.neighbors.quantizer import Quantizer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["numba", "portable"])
def each_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let `backend` take numba's kernels, then plain torch; in tests of the module without it, either."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numba":
            pytest.importorskip("numba")
        else:
            patch.setattr(backend, "_numba_works", lambda: False)
        yield request.param


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


@pytest.fixture(scope="session")
def sorted_lists() -> Callable[..., tuple[list, list]]:
    """Return a function giving the k nearest among the pairs (N, M) that a mask allows, by sorting lists.

    As (ids, distances), nested lists that `Neighbors` compare equal to; ties by the id.
    """

    def nearest(d: np.ndarray, allowed: np.ndarray, ids: np.ndarray, k: int) -> tuple[list, list]:
        rows = []
        for distances, mask in zip(d.tolist(), allowed.tolist(), strict=True):
            found = sorted((at, int(i)) for at, i, ok in zip(distances, ids, mask, strict=True) if ok)[:k]
            rows.append(found + [(float("inf"), -1)] * (k - len(found)))
        return [[i for _, i in row] for row in rows], [[at for at, _ in row] for row in rows]

    return nearest


@pytest.fixture(scope="session")
def encode() -> Callable[..., Encoded]:
    """Return a function that brings rows into the form the backends take, with a Quantizer given."""

    def encoded(
        features: np.ndarray,
        quantizer: Quantizer,
        *,
        sample_ids: np.ndarray | None = None,
        limit: np.ndarray | None = None,
        radius: np.ndarray | None = None,
    ) -> Encoded:
        n = len(features)
        ids = np.arange(n) if sample_ids is None else sample_ids
        x = torch.from_numpy(np.ascontiguousarray(features, np.float32))
        codes, residuals = quantizer.encode(x)
        return Encoded(
            sample_ids=torch.from_numpy(ids),
            features=x,
            codes=codes,
            residuals=residuals,
            order=torch.from_numpy((ids[:, None] > ids).sum(axis=1)),
            limit=torch.full((n,), torch.inf) if limit is None else torch.from_numpy(limit),
            radius=None if radius is None else torch.from_numpy(radius),
        )

    return encoded
