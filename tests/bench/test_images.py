"""Where the real images come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dm2at_ray.bench.images import load_images
from dm2at_ray.errors import PoolError


def write_fashion_mnist(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Its four IDX files, the test ones with the same images."""
    folder.mkdir(parents=True)
    for stem in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())


def test_load_images__digits_where_there_is_no_fashion_mnist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    images = load_images()
    assert images.name == "scikit-learn digits"
    assert images.pixels.shape == (1797, 8, 8)
    assert images.classes == 10
    np.testing.assert_array_equal(images.labels, load_digits().target)


def test_load_images__fashion_mnist_of_the_system_or_of_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    folder = tmp_path / "share" / "datasets" / "fashion-mnist"
    write_fashion_mnist(folder, pixels, np.array([9, 0, 4], dtype=np.uint8))
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'none'}:{tmp_path / 'share'}")
    for images in (load_images(), load_images(folder)):
        assert images.name == "Fashion-MNIST"
        np.testing.assert_array_equal(images.pixels.numpy(), pixels)
        assert images.labels.tolist() == [9, 0, 4]


def test_load_images__of_a_folder_without_them(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"images: .*give the folder that holds the four files"):
        load_images(tmp_path)
