"""Small pools as files, and the float64 reference that answers are held against."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from dm2at_ray.bench.worker import Job


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def features() -> np.ndarray:
    """(400, 24) float32: some pixels of the digits, slightly shifted so that no two pairs tie."""
    noise = np.random.default_rng(0).random((400, 24))
    return (load_digits().data[:400, 20:44] + noise).astype(np.float32)


@pytest.fixture(scope="session")
def reference() -> Callable[..., np.ndarray]:
    """`reference(x)`: D of all pairs in float64 by SciPy, +inf on the diagonal."""

    def all_pairs(x: np.ndarray, l2_weight: float = 1.0) -> np.ndarray:
        x = x.astype(np.float64)
        d = cdist(x, x, "cityblock") + l2_weight * cdist(x, x, "euclidean")
        np.fill_diagonal(d, np.inf)
        return d

    return all_pairs


@pytest.fixture(scope="session")
def nearest(features: np.ndarray, reference: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """`nearest(k)`: (400, k) the k nearest of every row by SciPy in float64, under D or under L1 only."""

    def k_nearest(k: int, l2_weight: float = 1.0) -> np.ndarray:
        d = reference(features, l2_weight)
        return np.argsort(d, axis=1, kind="stable")[:, :k]

    return k_nearest


@pytest.fixture(scope="session")
def idx_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as Fashion-MNIST's IDX files: 1,400 to train on, compressed, and 397 to test with."""
    digits = load_digits()
    pixels, labels = np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target.astype(np.uint8)
    folder = tmp_path_factory.mktemp("idx")
    for stem, rows in (("train", slice(0, 1400)), ("t10k", slice(1400, None))):
        for rest, array in (("images-idx3", pixels[rows]), ("labels-idx1", labels[rows])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            whole = header + array.tobytes()
            name = f"{stem}-{rest}-ubyte"
            if stem == "train":
                (folder / f"{name}.gz").write_bytes(gzip.compress(whole))
            else:
                (folder / name).write_bytes(whole)
    return folder


@pytest.fixture
def feature_file(features: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "features.npy"
    np.save(path, features)
    return path


@pytest.fixture
def job(feature_file: Path) -> Callable[..., Job]:
    """`job("exact")`: a search of the 5 nearest among 300 rows, the audit asking for 20 of them."""

    def make(name: str, **changes: object) -> Job:
        values: dict = {
            "name": name,
            "features": str(feature_file),
            "rows": 300,
            "k": 5,
            "queries": 20,
            "seed": 3,
            "threads": 1,
            "device": "cpu",
            "limit": 60.0,
            "repeat": 1,
        }
        return Job(**{**values, **changes})

    return make
